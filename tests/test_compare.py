"""Two traces side by side: contributions that add up, changes that are found where they were planted."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import plain_count
import polars as pl
import pytest
import traces
from commands import traceql
from small_traces import Decode

from traceql import samples
from traceql.comparison import view
from traceql.comparison.formats import RENDERERS
from traceql.comparison.runs import Comparison, compare_paths
from traceql.comparison.steps import StepComparison, compare
from traceql.comparison.view import line_label
from traceql.derived.period_parts import OUTSIDE, period_parts
from traceql.errors import UsageError
from traceql.opening import open_trace
from traceql.testing import TraceBuilder
from traceql.trace import Trace

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "compare.schema.json").read_text())


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    def write_and_open(run: Decode, name: str = "x") -> Trace:
        trace = open_trace(run.write(tmp_path / f"{name}.json"))
        assert isinstance(trace, Trace)
        return trace

    return write_and_open


def adds_up(found: StepComparison) -> bool:
    sums = {sum(c.delta_ns for c in each) for each in (found.roles, found.parts)}
    bases = {sum(c.base_ns for c in each) for each in (found.roles, found.parts)}
    return sums == {found.delta_ns} and bases == {found.base.period_ns}


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_every_period_is_the_sum_of_its_parts(path: Path) -> None:
    trace = traces.opened(path)
    for step_id, period in trace.table("steps").select("step_id", "period_ns").rows():
        parts = period_parts(trace, step_id)
        if not parts.is_empty():
            assert parts["ns"].sum() == period
            assert (parts["ns"] >= 0).all()


DECODE = "torch/sglang-h200-llama8b-bs64-decode"


def test_eager_against_graph_is_explained_to_the_nanosecond() -> None:
    eager, graph = traces.sample("sglang-h200-bs64-decode-eager"), traces.sample("sglang-h200-bs64-decode-graph")
    found = compare(eager, graph)
    assert adds_up(found)
    assert found.delta_ns < -24_000_000
    host = next(c for c in found.roles if (c.what, c.role) == ("idle", "host"))
    assert 85 < (found.share_pct(host) or 0) < 92
    gaps = eager.table("gaps").filter(pl.col("step_id") == found.base.step_id)
    held_up = eager.table("gap_parts").filter(pl.col("cause") == "host").join(gaps, on="gap_id", how="semi")
    assert abs(host.base_count - held_up["gap_id"].n_unique()) <= 1, "gaps, not the stretches they are cut into"
    parts = {c.name: c for c in found.parts if c.what == "gpu"}
    merged = parts["PersistentVariableLengthMergeStatesKernel"]
    assert (merged.status, merged.head_count) == ("appeared", 32)
    figures = {f.name: (f.base, f.head) for f in found.figures}
    assert figures["kernels"] == (392, 427)
    assert figures["launch_calls"] == (392, 7)
    assert (figures["layers"], figures["kernels_per_layer"]) == ((32, 32), (12, 13))
    assert found.notes == ()
    # GEMMs are the same on both sides: no part of the difference
    for role in ("gate_up", "down", "qkv", "o_proj"):
        (gemm,) = [c for c in found.roles if c.role == role]
        assert gemm.base_count == gemm.head_count
        assert abs(gemm.delta_ns) < 0.05 * gemm.base_ns


def test_attention_backends() -> None:
    found = compare(traces.extra(f"{DECODE}-graph.trace.json.gz"), traces.extra(f"{DECODE}-graph-triton.trace.json.gz"))
    assert adds_up(found)
    (attention,) = [c for c in found.roles if c.role == "attention"]
    assert attention.delta_ns == pytest.approx(346_078, rel=0.02)
    status = {c.name: c.status for c in found.parts if c.role == "attention"}
    assert status == {
        "BatchPrefillWithPagedKVCacheKernel": "vanished", "PersistentVariableLengthMergeStatesKernel": "vanished",
        "_fwd_grouped_kernel_stage1": "appeared", "_fwd_kernel_stage2": "appeared",
    }  # fmt: skip


def test_batch_sizes() -> None:
    found = compare(
        traces.extra("torch/sglang-h200-llama8b-bs1-decode-graph.trace.json.gz"),
        traces.extra(f"{DECODE}-graph.trace.json.gz"),
    )
    assert adds_up(found)
    assert (found.base.batch_size, found.head.batch_size) == (1, 64)
    assert found.notes == ("Not the same conditions: batch size 64 (was 1).",)


def test_nsys_eager_full_graph_piecewise() -> None:
    names = ("eager-node", "full-node", "piecewise-node", "piecewise-graph")
    for one, other in pairwise(names):
        found = compare(
            traces.extra(f"nsys/mini-decode-{one}.sqlite"), traces.extra(f"nsys/mini-decode-{other}.sqlite")
        )
        assert adds_up(found)
    assert any("may be graph replays that left no device record" in note for note in found.notes)
    (unrecorded,) = [c for c in found.roles if c.what == "unrecorded"]
    assert unrecorded.head_ns > 1_500_000
    figures = {f.name: (f.base, f.head) for f in found.figures}
    assert figures["graph_boundaries"] == (24, None)
    assert figures["kernels"] == (98, None)


def test_a_trace_against_itself() -> None:
    trace = traces.sample("sglang-h200-bs64-decode-graph")
    found = compare(trace, trace)
    assert (found.delta_ns, {c.status for c in found.parts}) == (0, {"same"})
    assert found.share_pct(found.roles[0]) is None


def test_opaque_against_recorded_is_called_not_comparable() -> None:
    """Replays without a record on one side: a share of thousands of per cent, or a kernel that "vanished", is false."""
    for one, other in (("piecewise-node", "piecewise-graph"), ("piecewise-graph", "piecewise-node")):
        found = compare_paths(*(traces.extra(f"nsys/mini-decode-{name}.sqlite").path for name in (one, other)))
        assert found.step is not None
        assert (found.step.detail, {c.status for c in found.step.parts}) == ("opaque", {"not comparable"})
        assert {found.step.share_pct(c) for c in found.step.roles} == {None}
        text = RENDERERS["text"](found)
        opaque = "head" if other == "piecewise-graph" else "base"
        assert f"What it is made of is not comparable: {opaque} left its graph replays without a record" in text
        assert "vanished" not in text
        assert "appeared" not in text
        block = text.split("the lines add up, but cannot be compared\n")[1].split("\n\n")[0].splitlines()
        assert [line.split("  ")[1] for line in block[1:]] == [
            "replays without a record", "GPU work on record", "idle time on record", "period",
        ]  # fmt: skip
        assert [line.count("not comparable") for line in block[1:]] == [1, 1, 1, 0]
        jsonschema.validate(json.loads(RENDERERS["json"](found)), SCHEMA)
    both = compare(*[traces.extra(f"nsys/mini-decode-{name}.sqlite") for name in ("full-graph", "piecewise-graph")])
    assert both.detail == "alike"


def replayed(how: str, slower_us: float = 0.0) -> Trace:
    """Steps of one replay with 20 µs of idle time inside it, recorded by kernel or whole."""
    build = TraceBuilder("nsys")
    for start in range(0, 4000, 1000):
        build.range("step[DECODE bs=8]", start, 900)
        nodes = [("gemm_kernel", start + 120, 300.0), ("attention_kernel", start + 440, 200 + slower_us)]
        correlation = build.graph(nodes if how == "node" else [], call_us=start + 100)
        if how == "graph":
            build.graph_trace(start + 120, 520 + slower_us, correlation=correlation)
    return build.trace()


def test_whole_replays_against_kernels_are_compared_as_a_whole() -> None:
    found = compare(replayed("node"), replayed("graph", slower_us=50.0))
    assert found.detail == "replays"
    assert adds_up(found)
    lines = {line_label(line): line for line in view.build(Comparison("a", "b", found, (), False, ())).bars}
    work = lines["GPU: work, with idle time inside replays"]
    assert (work.base_ns, work.head_ns, work.delta_ns) == (520_000, 570_000, 50_000)
    assert "GPU: gemm" not in lines
    assert sum(line.delta_ns for line in lines.values()) == found.delta_ns
    assert {c.status for c in found.parts if c.what == "gpu"} == {"not comparable"}
    assert compare(replayed("graph"), replayed("graph", slower_us=50.0)).detail == "alike"


def test_a_share_of_idle_time_changes_by_points() -> None:
    text = RENDERERS["text"](compare_paths(*(samples.path(f"sglang-h200-bs64-decode-{m}") for m in ("eager", "graph"))))
    assert re.search(r"GPU idle, of the period +8\d\.\d % +2\d\.\d % +−5\d\.\d points\n", text)
    assert re.search(r"Bytes copied +1\.81 kB +1\.60 kB +−209 B\n", text)


def test_shares_give_way_where_gains_and_losses_cancel() -> None:
    found = compare_paths(*(traces.extra(f"{DECODE}-{mode}.trace.json.gz").path for mode in ("graph", "graph-triton")))
    text = RENDERERS["text"](found)
    assert "(gains and losses nearly cancel)" in text
    assert "against it: GPU: attention +346 µs" in text
    assert re.search(r"GPU: attention +1,692\.2 +2,038\.2 +\+346\.1 +\+4\.1 % +64\n", text)
    assert max(abs(float(p.replace("−", "-"))) for p in re.findall(r"([+−][\d.]+) %", text)) < 100
    # a kernel and the one in its place are one line
    assert re.search(
        r"BatchPrefi\S+ → _fwd_group\S+ +GPU: attention +replaced +1,588\.6 +1,944\.1 +\+355\.5 +32\n", text
    )


def plain_periods(path: Path) -> list[tuple[int, int]]:
    """(period, GPU busy in it) of each step but the last, read from the file without traceql."""
    document = json.loads(gzip.decompress(path.read_bytes()), parse_float=str)
    rows = [e for e in document["traceEvents"] if e.get("ph") == "X"]
    time = {id(e): (plain_count.nanoseconds(e["ts"]), plain_count.nanoseconds(e["dur"])) for e in rows}
    starts = sorted(time[id(e)][0] for e in rows if e.get("cat") == "user_annotation" and e["name"].startswith("step["))  # type: ignore[type-var]
    gpu = [time[id(e)] for e in rows if e.get("cat") in plain_count.TORCH_GPU_ROWS]
    found = []
    for low, high in pairwise(starts):
        inside = [(max(s, low), min(s + d, high)) for s, d in gpu if s < high and s + d > low]  # type: ignore
        found.append((high - low, plain_count.total(inside)))
    return found


@pytest.mark.parametrize(("one", "other"), [("eager", "graph"), ("graph", "graph-triton")])
def test_the_difference_is_explained_within_two_per_cent(one: str, other: str) -> None:
    paths = [traces.extra(f"{DECODE}-{mode}.trace.json.gz").path for mode in (one, other)]
    found = compare_paths(*paths).step
    assert found is not None
    plain = [plain_periods(path) for path in paths]
    for side, steps, busy in (
        (found.base, plain[0], sum(c.base_ns for c in found.roles if c.what == "gpu")),
        (found.head, plain[1], sum(c.head_ns for c in found.roles if c.what == "gpu")),
    ):
        assert (side.period_ns, busy) == steps[side.step_id], "as a plain count of the file has it"
    unexplained = sum(
        abs(c.delta_ns) for c in found.roles if c.role in ("unknown", "other", OUTSIDE) or c.what == "unrecorded"
    )
    assert unexplained <= 0.02 * abs(found.delta_ns)


BASE = Decode()


@pytest.mark.parametrize(
    ("changed", "what", "role", "delta_us"),
    [
        (dataclasses.replace(BASE, host_us=66.0), "idle", "host", 13 * 6),
        (dataclasses.replace(BASE, between_us=90.0), "idle", "host", 40),
        (dataclasses.replace(BASE, layer=BASE.layer | {"attention_kernel": 20.0}), "gpu", "attention", 4 * 8),
        (dataclasses.replace(BASE, copies=3), "gpu", "memcpy", 2 * 2),
    ],
)
def test_a_planted_change_is_found_in_its_place(
    opened: Any, changed: Decode, what: str, role: str, delta_us: float
) -> None:
    found = compare(opened(BASE, "base"), opened(changed, "head"))
    assert adds_up(found)
    (contribution,) = [c for c in found.roles if (c.what, c.role) == (what, role)]
    assert contribution.delta_ns / 1000 == pytest.approx(delta_us, abs=0.01)


def test_a_kernel_more_a_layer(opened: Any) -> None:
    found = compare(
        opened(BASE, "base"), opened(dataclasses.replace(BASE, layer=BASE.layer | {"copy_kernel": 3.0}), "head")
    )
    assert adds_up(found)
    (new,) = [c for c in found.parts if c.name == "copy_kernel"]
    assert (new.status, new.head_count, new.delta_ns) == ("appeared", 4, 12_000)
    back = compare(
        opened(dataclasses.replace(BASE, layer=BASE.layer | {"copy_kernel": 3.0}), "head"), opened(BASE, "base")
    )
    assert next(c for c in back.parts if c.name == "copy_kernel").status == "vanished"


def test_the_step_chosen_is_a_median_one_and_not_the_last(opened: Any) -> None:
    trace = opened(Decode(steps=7))
    side = compare(trace, trace).base
    assert side.steps == 7
    assert side.step_id < 6
    assert compare(opened(Decode(steps=2), "two"), trace).notes[-1].startswith("base: only 2 such steps")


def test_kinds_and_batch_sizes_asked_for(opened: Any) -> None:
    trace = opened(BASE)
    assert compare(trace, trace, kind="decode", batch_size=8).delta_ns == 0
    with pytest.raises(UsageError, match=r"x\.json: no prefill step; it has: decode 8"):
        compare(trace, trace, kind="prefill")
    with pytest.raises(UsageError, match=r"x\.json: no decode step of batch size 9; it has: decode 8"):
        compare(trace, trace, batch_size=9)
    with pytest.raises(UsageError, match=r"no kind of step in common: .* has decode, .* has prefill steps"):
        compare(trace, traces.sample("sglang-h200-bs4-prefill-piecewise"))


def test_a_trace_without_steps_is_said(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "none.json").write_text(json.dumps({"schemaVersion": 1, "traceEvents": BASE.events()[:1]}))
    none = open_trace(tmp_path / "none.json")
    assert isinstance(none, Trace)
    with pytest.raises(UsageError, match=r"none\.json: no steps found"):
        compare(none, opened(BASE))


# --- sets of runs ----------------------------------------------------------------------------------------------------


def recorded(folder: Path, name: str, ms: float, run: Decode = BASE, mode: str = "graph") -> None:
    """A run directory as the collectors leave it."""
    place = folder / name
    (place / "graph-torch").mkdir(parents=True)
    run.write(place / "graph-torch" / "decode.trace.json")
    latency = {"what": "decode step", "runs_ms": [ms, ms], "median_ms": ms, "spread_pct": 0.1, "source": "log"}
    stages = [
        {"name": mode, "mode": mode, "latency": latency, "profiler": "none"},
        {"name": "graph-torch", "mode": mode},
    ]
    (place / "manifest.json").write_text(json.dumps({"kind": "run", "name": name, "stages": stages}))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for side, factor in (("base", 1.0), ("same", 1.0), ("slow", 1.04)):
        for i, ms in enumerate([7.20, 7.26, 7.23, 7.21, 7.25]):
            recorded(tmp_path / side, f"run{i}", (ms + (0.001 * i if side == "same" else 0)) * factor)
    return tmp_path


def test_runs_are_judged_by_their_unprofiled_latency(runs: Path) -> None:
    found = compare_paths(runs / "base", runs / "slow")
    (judged,) = found.judgements
    assert (judged.metric, judged.outcome, len(judged.base)) == ("decode step, graph", "slower", 5)
    assert judged.change_pct == pytest.approx(4, abs=0.1)
    assert found.step is not None
    assert found.step.delta_ns == 0
    assert not found.profiled
    assert compare_paths(runs / "base", runs / "same").judgements[0].outcome == "no difference"


def test_exit_codes_of_the_gate(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def gate(*arguments: str) -> int:
        return traceql(capsys, "compare", *arguments, "--gate").code

    assert gate("base", "same") == 0
    assert gate("base", "slow") == 1
    assert gate("slow", "base") == 0, "faster is no reason to fail"
    assert gate("base/run0", "slow/run0") == 2, "one run a side cannot tell"
    assert gate("base", "slow", "--min-effect", "10") == 0
    assert traceql(capsys, "compare", "base", "slow").code == 0
    ran = traceql(capsys, "compare", "base", "none")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


def test_three_against_three_is_inconclusive(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("base", "slow"):
        for i in (3, 4):
            for file in sorted((runs / side / f"run{i}").rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            (runs / side / f"run{i}").rmdir()
    ran = traceql(capsys, "compare", "base", "slow", "--gate")
    assert ran.code == 2
    assert "p = 0.1, 3 against 3 runs: inconclusive: too few runs." in ran.out


def test_runs_without_unprofiled_times_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for side, host_us in (("base", 60.0), ("head", 66.0)):
        Path(side).mkdir()
        for i in range(5):
            Decode(host_us=host_us + 0.05 * i).write(Path(side) / f"run{i}.json")
    ran = traceql(capsys, "compare", "base", "head", "--gate")
    assert ran.code == 1
    assert "step period, profiled: +9" in ran.out
    assert "Note: The runs were timed under the profiler" in ran.out


def test_the_traces_explain_the_mode_that_became_slower(runs: Path) -> None:
    """Runs of an eager and a graph capture each: the graph's times are slower, so the graph's traces are compared."""
    for side in ("base", "slow"):
        for i in range(5):
            run = runs / side / f"run{i}"
            (run / "eager-torch").mkdir()
            Decode().write(run / "eager-torch" / "decode.trace.json")
            Decode(graph=True).write(run / "graph-torch" / "decode.trace.json")
            stages = json.loads((run / "manifest.json").read_text())["stages"]
            stages[1] = {"name": "graph-torch", "mode": "graph", "files": [{"path": "graph-torch/decode.trace.json"}]}
            stages.append(
                {"name": "eager-torch", "mode": "eager", "files": [{"path": "eager-torch/decode.trace.json"}]}
            )
            edited(run, stages=stages)
    found = compare_paths(runs / "base", runs / "slow")
    assert found.step is not None
    assert {side.trace.path.parent.name for side in (found.step.base, found.step.head)} == {"graph-torch"}
    assert found.notes[0].startswith(
        "Several traces on a side: compared graph-torch/decode.trace.json with graph-torch/"
    )


def edited(run: Path, **changes: Any) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | changes))


def test_what_makes_the_times_hard_to_compare_is_said(runs: Path) -> None:
    def notes(head: str) -> str:
        return " ".join(compare_paths(runs / "base", runs / head).notes)

    assert notes("same") == ""
    for side, begin in (("base", 0), ("same", 100), ("slow", 5)):
        for i in range(5):
            edited(
                runs / side / f"run{i}",
                started_unix_ns=begin + 10 * i,
                workload={"batch_size": 8, "model": "m"},
                machine={"gpus": [{"name": "NVIDIA H200" if side == "base" else "NVIDIA H100"}]},
            )
    assert "not taken alike: GPU NVIDIA H100 (was NVIDIA H200)." in notes("same")
    assert "All runs of one side were recorded before those of the other" in notes("same")
    assert "recorded before" not in notes("slow"), "base and head in turn"
    stages = json.loads((runs / "slow" / "run0" / "manifest.json").read_text())["stages"]
    stages[0]["clocks"] = [{"gpu": 0, "samples": 20, "throttle_reasons": {"sw_power_cap": 9}}]
    edited(runs / "slow" / "run0", stages=stages)
    assert "Clocks were held down in 0 of 5 base and 1 of 5 head runs" in notes("slow")


def test_a_failed_stage_times_nothing(runs: Path) -> None:
    stages = json.loads((runs / "slow" / "run0" / "manifest.json").read_text())["stages"]
    stages[0]["status"] = "failed"
    edited(runs / "slow" / "run0", stages=stages)
    (judged,) = compare_paths(runs / "base", runs / "slow").judgements
    assert (len(judged.base), len(judged.head)) == (5, 4)


def test_measurements_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.json").write_text('{"runs_ms": [7.2, 7.3, 7.25, 7.21, 7.22]}')
    Path("head.json").write_text('{"runs_ms": [7.6, 7.7, 7.65, 7.61, 7.62], "metric": "step"}')
    ran = traceql(capsys, "compare", "base.json", "head.json", "--gate")
    assert ran.code == 1
    assert ran.out.startswith("base.json → head.json\n\nstep: +5.5 % [")
    Path("head.json").write_text('{"runs_ms": [7.6, -1]}')
    assert "runs_ms must hold a positive number" in traceql(capsys, "compare", "base.json", "head.json").err


def test_ranks_of_one_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for side in ("base", "head"):
        Path(side).mkdir()
        for rank in (0, 1):
            source = samples.path(f"sglang-h200-tp2-decode-graph-rank{rank}")
            (Path(side) / source.name).symlink_to(source)
    ran = traceql(capsys, "compare", "base", "head", "--format", "json")
    document = json.loads(ran.out)
    assert (document["step"]["base"]["rank"], document["step"]["head"]["rank"]) == (0, 0)
    assert document["notes"][0].startswith("Several traces on a side: compared")
    assert document["runs"] == []
    ran = traceql(capsys, "compare", "base", "head", "--rank", "1", "--format", "json")
    assert json.loads(ran.out)["step"]["head"]["rank"] == 1
    assert "no trace that was asked for" in traceql(capsys, "compare", "base", "head", "--trace", "zzz").err


# --- formats ---------------------------------------------------------------------------------------------------------


def test_json_is_as_its_schema_says_and_adds_up(runs: Path) -> None:
    for pair in (("base", "slow"), ("base/run0/graph-torch/decode.trace.json", "slow/run1")):
        document = json.loads(RENDERERS["json"](compare_paths(runs / pair[0], runs / pair[1])))
        jsonschema.validate(document, SCHEMA)
        step = document["step"]
        assert (
            sum(c["delta_ns"] for c in step["roles"]) == sum(c["delta_ns"] for c in step["parts"]) == step["delta_ns"]
        )


def test_shown_lines_add_up() -> None:
    found = compare_paths(*(samples.path(f"sglang-h200-bs64-decode-{mode}") for mode in ("eager", "graph")))
    text = RENDERERS["text"](found)
    block = text.split("Where the difference comes from")[1].split("\n\n")[0].splitlines()[2:]
    deltas = [float(re.findall(r"[+−][\d,]+\.\d", line)[0].replace(",", "").replace("−", "-")) for line in block]
    assert sum(deltas[:-1]) == pytest.approx(deltas[-1], abs=0.05 * len(deltas))
    assert block[-1].split()[:3] == ["period", "33,412.4", "8,490.0"]
    markdown = RENDERERS["markdown"](found)
    assert markdown.count("<details>") == markdown.count("</details>") == 5
    assert "| period | 33,412.4 | 8,490.0 | −24,922.4 | 100.0 % |" in markdown


def test_output_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = traceql(capsys, "compare", "base", "slow", "--format", "markdown", "-o", "x.md")
    assert (ran.code, ran.out) == (0, "")
    assert Path("x.md").read_text().startswith("### traceql compare: base → slow\n")
