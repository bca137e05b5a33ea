"""The first sentence of a report: what it calls the largest loss."""

from __future__ import annotations

from collections import defaultdict

import pytest
import traces

from traceql.report.headline import median_steps, verdict, waiting_ns


def test_a_gpu_that_only_waits_for_the_other_rank_is_a_loss() -> None:
    trace = traces.sample("nsys-h200-sglang-tp2-decode-eager")
    step = median_steps(trace)[0]
    shortest: dict[str, int] = defaultdict(lambda: 1 << 62)
    rows = [row for row in trace.table("kernels").rows(named=True) if "nccl" in row["name"].lower()]
    for row in rows:
        if row["step_id"] is not None:
            shortest[row["name"]] = min(shortest[row["name"]], row["dur_ns"])
    mine = [row for row in rows if (row["step_id"], row["device"]) == (step.step_id, step.device)]
    assert waiting_ns(trace, step) == sum(row["dur_ns"] - shortest[row["name"]] for row in mine) > 0.8 * step.period_ns
    assert "GPU busy 93.8 %" in verdict(trace)
    assert "the largest loss is 45.7 ms of collectives that wait for other ranks" in verdict(trace)


@pytest.mark.parametrize("name", ["sglang-h200-bs64-decode-graph", "sglang-h200-tp2-decode-graph-rank1"])
def test_without_much_waiting_the_host_stays_the_largest_loss(name: str) -> None:
    assert "host time before kernel launches" in verdict(traces.sample(name))
