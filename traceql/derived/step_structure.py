"""Steps of a trace without step marks, told from what repeats."""

from __future__ import annotations

import polars as pl

from traceql.derived.step_marks import MARK_SCHEMA
from traceql.trace import Trace


def structural(trace: Trace) -> pl.DataFrame:
    """Step ranges found from repetition, as MARK_SCHEMA; empty when nothing repeats."""
    return pl.DataFrame(schema=MARK_SCHEMA)
