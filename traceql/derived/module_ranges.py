"""Ranges that name a module of the model: SGLang's layer-wise NVTX markers.

``--enable-layerwise-nvtx-marker`` names a range by a dictionary written out: the module's path, the sizes of its
parameters, the sizes of its inputs. 32 layers make 32 names of one module; its path with ``*`` for the layer's number says
which it is.
"""

from __future__ import annotations

import polars as pl

from traceql.derived.naming import told

_MODULE = r"^\{'Module': '([^']+)'"
_NUMBER = r"\.\d+\b"


def displayed(names: pl.Series) -> pl.Series:
    """Names as findings say them: the module with ``*`` for numbers where a name tells one, else the name itself."""
    name = pl.col("name")
    return told(names, pl.coalesce(name.str.extract(_MODULE).str.replace_all(_NUMBER, ".*"), name))
