"""Serving rules on the real server capture: sixteen decode steps of batch 48 without a CUDA graph between prefills."""

from __future__ import annotations

import gzip
import json
import re
from itertools import pairwise

import pytest
import traces

import traceql as tq
from traceql import registry
from traceql.derived.decode_intervals import decode_intervals, undisturbed_runs
from traceql.derived.step_overlap import step_overlap
from traceql.engine import Selection


@pytest.fixture
def server() -> tq.Trace:
    return traces.extra("torch/sglang-h200-llama8b-server-24steps.trace.json.gz")


@pytest.fixture
def report(server: tq.Trace) -> tq.Report:
    return tq.analyze(server, selection=Selection(registry.resolve("TQL6")))


def test_falling_latency_is_no_trend(report: tq.Report, server: tq.Trace) -> None:
    outcomes = {o.code: o.outcome for o in report.rules}
    assert outcomes["TQL601"] == "passed"
    run = undisturbed_runs(server)
    assert run["run"].n_unique() == 1
    assert run["itl_ns"][-1] < run["itl_ns"][0]
    busy = run["gpu_busy_ns"] / 1e6
    assert 5.44 < busy.min() <= busy.max() < 5.50  # type: ignore[operator]


def test_prefills_hold_up_the_running_requests(report: tq.Report, server: tq.Trace) -> None:
    assert decode_intervals(server).height == 16
    (finding,) = [f for f in report.found if f.code == "TQL602"]
    (held_up,) = finding.evidence["held_up"]
    assert (held_up["waiting_requests"], held_up["prefills"], held_up["prefill_tokens"]) == (24, 6, 2926)
    assert finding.evidence["itl_without_ms"] == pytest.approx(30.8, abs=0.3)


def test_overlap_works_for_the_replayed_step_only(report: tq.Report, server: tq.Trace) -> None:
    (finding,) = [f for f in report.found if f.code == "TQL603"]
    assert finding.evidence["steps"] == finding.evidence["steps_without_graph"] == 16
    assert finding.evidence["hidden_pct"] < 1
    leads = dict(step_overlap(server).select("step_id", "lead_ns").rows())
    assert leads[1] / 1e6 == pytest.approx(2.64, abs=0.01)
    assert all(-1.85 < leads[step] / 1e6 < -1.05 for step in range(9, 23))


def test_other_serving_rules_have_nothing_to_say(report: tq.Report) -> None:
    outcomes = {o.code: o.outcome for o in report.rules}
    assert outcomes["TQL604"] == "passed"  # the one replay was captured for just that batch
    assert outcomes["TQL605"] == "not_applicable"  # no log beside the capture


def test_token_latencies_equal_a_plain_count(server: tq.Trace) -> None:
    """From the file's own marks: ends of the steps' windows on the GPU, starts of those on the host."""
    events = json.loads(gzip.decompress(server.path.read_bytes()))["traceEvents"]
    marks = [e for e in events if re.match(r"step\[", str(e.get("name"))) and e.get("ph") == "X"]
    host = sorted((e for e in marks if e["cat"] == "user_annotation"), key=lambda e: e["ts"])
    gpu = sorted((e for e in marks if e["cat"] == "gpu_user_annotation"), key=lambda e: e["ts"])
    ends = [round(1000 * (e["ts"] + e["dur"])) for e in gpu]
    assert [e["name"] for e in gpu] == [e["name"] for e in host]
    decode = [end for e, end in zip(gpu, ends, strict=True) if "DECODE" in e["name"]]
    between = [later - earlier for earlier, later in pairwise(decode)]
    first = [end - round(1000 * e["ts"]) for e, end in zip(host, ends, strict=True) if "EXTEND" in e["name"]]
    rows = server.sql("select kind, latency_ns, tokens, prefills from token_latencies order by step_id")
    measured = {kind: [row[1] for row in rows.rows() if row[0] == kind] for kind in ("itl", "ttft")}
    assert measured["itl"] == pytest.approx(between, abs=3)
    assert measured["ttft"] == pytest.approx(first, abs=3)
    assert rows["prefills"].sum() == rows["tokens"].count() == 6
