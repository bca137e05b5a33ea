"""Names of modules in SGLang's layer-wise NVTX markers, as findings say them."""

from __future__ import annotations

import polars as pl
import pytest
import traces

import traceql as tq
from traceql.derived.module_ranges import displayed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "{'Module': 'model.layers.17.self_attn.qkv_proj', 'Inputs': [[64, 4096]]}",
            "model.layers.*.self_attn.qkv_proj",
        ),
        ("{'Module': 'model.layers.3'}", "model.layers.*"),
        ("{'Module': 'model.layers.3.experts.7.8.up'}", "model.layers.*.experts.*.*.up"),
        ("{'Module': 'model.norm_2'}", "model.norm_2"),
        ("step[DECODE bs=64]", "step[DECODE bs=64]"),
        ("{'Module': ", "{'Module': "),
        (None, None),
    ],
)
def test_displayed_names(name: str | None, shown: str | None) -> None:
    assert displayed(pl.Series([name, name, "other"], dtype=pl.String)).to_list() == [shown, shown, "other"]


def test_gaps_are_blamed_on_the_module_of_all_layers() -> None:
    trace = traces.sample("nsys-h200-sglang-4-layers-nvtx")
    report = tq.analyze(trace)
    (gap,) = (f for f in report.found if f.code == "TQL101")
    blamed = {row["blame"]: row["gaps"] for row in gap.evidence["by_blame"]}
    assert blamed["model.model.layers.*.self_attn.attn"] == 12
