"""Ranges that name a module of the model: SGLang's layer-wise NVTX markers.

``--enable-layerwise-nvtx-marker`` names a range by a dictionary written out: the module's path, the sizes of its
parameters, the sizes of its inputs. 32 layers make 32 names of one module; its path with ``*`` for the layer's number says
which it is.
"""

from __future__ import annotations

import polars as pl

_MODULE = r"^\{'Module': '([^']+)'"
_NUMBER = r"\.\d+(\.|$)"


def module(name: pl.Expr) -> pl.Expr:
    """The path of the module a range's name tells, null for other names: ``model.layers.7.mlp``."""
    return name.str.extract(_MODULE)


def displayed(names: pl.Series) -> pl.Series:
    """Names as findings say them: the module with ``*`` for numbers where a name tells one, else the name itself."""
    distinct = pl.DataFrame({"name": names.unique()}).select(
        "name",
        shown=pl.coalesce(
            module(pl.col("name")).str.replace_all(_NUMBER, ".*${1}").str.replace_all(_NUMBER, ".*${1}"), pl.col("name")
        ),
    )
    return names.to_frame("name").join(distinct, on="name", how="left", maintain_order="left", nulls_equal=True)[
        "shown"
    ]
