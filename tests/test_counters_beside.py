"""``analyze --ncu`` and run directories with Nsight Compute reports: counters on the timeline, both classes shown."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import traceql as tq
from traceql import samples
from traceql.cli.main import cli
from traceql.errors import UsageError
from traceql.fleet import summaries as fleet
from traceql.opening import TraceSet
from traceql.report.json import document
from traceql.trace import Trace

EAGER = "sglang-h200-bs64-decode-eager"
GRAPH = "sglang-h200-bs64-decode-graph"
ACTIVATION = "act_and_mul_kernel"


def raw_page(path: Path, trace: Trace, kernels: dict[str, dict[str, Any]], gpu: str = "NVIDIA H200") -> Path:
    """A raw CSV page (base units) that profiled the first launch of each kernel (by short name) of ``trace``."""
    metrics = {name: "" for values in kernels.values() for name in values}
    identity = [
        "ID",
        "Process ID",
        "Process Name",
        "Kernel Name",
        "Context",
        "Stream",
        "Block Size",
        "Grid Size",
        "Device",
        "CC",
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        page = csv.writer(file, quoting=csv.QUOTE_ALL)
        page.writerow([*identity, "device__attribute_display_name", *metrics])
        page.writerow(
            [
                *[""] * len(identity),
                "",
                *["ns" if "duration" in name else "byte" if "bytes" in name else "%" for name in metrics],
            ]
        )
        for number, (name, values) in enumerate(kernels.items()):
            row = trace.table("kernels").filter(short_name=name).row(0, named=True)
            block, grid = (f"({row[f'{w}_x']}, {row[f'{w}_y']}, {row[f'{w}_z']})" for w in ("block", "grid"))
            page.writerow(
                [
                    number,
                    1,
                    "python",
                    row["name"],
                    1,
                    7,
                    block,
                    grid,
                    0,
                    "9.0",
                    gpu,
                    *[values.get(m, "") for m in metrics],
                ]
            )
    return path


def counters(dur_us: float, sm: float, memory: float, dram: int) -> dict[str, Any]:
    return {
        "gpu__time_duration.sum": f"{dur_us * 1000:,.0f}",
        "sm__throughput.avg.pct_of_peak_sustained_elapsed": sm,
        "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": memory,
        "dram__bytes.sum": f"{dram:,}",
    }


@pytest.fixture(scope="module")
def eager() -> Trace:
    trace = tq.open(samples.path(EAGER))
    assert isinstance(trace, Trace)
    return trace


@pytest.fixture
def page(tmp_path: Path, eager: Trace) -> Path:
    """The activation as it is measured cold: latency-bound by its counters, memory-bound by its shapes."""
    measured = {
        ACTIVATION: counters(4.42, 12.9, 17.5, 3_680_000),
        "FusedAddRMSNormKernel": counters(4.13, 7, 7, 1_070_000),
    }
    return raw_page(tmp_path / "decode.csv", eager, measured)


def test_the_flag_joins_and_shows_the_disagreement(page: Path) -> None:
    arguments = ["analyze", str(samples.path(EAGER)), "--ncu", str(page), "--no-cache", "--format"]
    result = CliRunner().invoke(cli, [*arguments, "json"])
    assert result.exit_code == 0
    assert "2 kernels of the timeline have counters, from 2 profiled" in result.stderr
    (entry,) = json.loads(result.stdout)["traces"]
    rows = {row["kernel"]: row for row in entry["counters"]["kernels"]}
    assert entry["counters"]["reports"] == ["decode.csv"]
    assert rows[ACTIVATION]["agree"] is False
    assert (rows[ACTIVATION]["bound_by_shapes"], rows[ACTIVATION]["bound_by_counters"]) == ("memory", "latency")
    assert rows[ACTIVATION]["reason"].startswith("DRAM moved 3.7 MB of the 5.5 MB")
    for form in ("text", "markdown", "html"):
        shown = " ".join(CliRunner().invoke(cli, [*arguments, form]).stdout.replace("\\", "").split())
        assert "is memory-bound by its shapes, latency-bound by its counters: DRAM moved 3.7 MB" in shown, form


def test_several_reports_are_one(tmp_path: Path, eager: Trace, page: Path) -> None:
    other = raw_page(tmp_path / "rope.csv", eager, {"fused_rope_kernel": counters(3.42, 4.8, 5.4, 661_000)})
    joined = tq.analyze(_with(eager, page, other)).traces[0]
    assert joined.table("ncu_kernels")["ncu_kernel_id"].to_list() == [0, 1, 2]
    assert set(joined.table("ncu_matches")["name"]) == {ACTIVATION, "FusedAddRMSNormKernel", "fused_rope_kernel"}
    assert joined.table("ncu_metrics")["ncu_kernel_id"].n_unique() == 3


def _with(trace: Trace, *pages: Path) -> Trace:
    from traceql.counters import with_counters

    return with_counters(trace, *(tq.open(page) for page in pages))  # type: ignore[arg-type]


def test_a_report_of_other_kernels_says_so(tmp_path: Path, eager: Trace) -> None:
    path = raw_page(tmp_path / "other.csv", eager, {ACTIVATION: counters(4, 1, 1, 1)})
    path.write_text(path.read_text(encoding="utf-8").replace("act_and_mul", "another"), encoding="utf-8")
    text = " ".join(tq.analyze(_with(eager, path)).render("text").split())
    assert "No kernel of this timeline was profiled in other.csv: name and launch shape must agree." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{page}", "--ncu", "{page}"], "--ncu needs a timeline"),
        (["{trace}", "--ncu", "{trace}"], "is no Nsight Compute report"),
        (["{trace}", "--ncu", "{page}", "--engine", "dask"], "not --sample, --eager or --ncu"),
    ],
)
def test_what_makes_no_sense_is_refused(page: Path, arguments: list[str], message: str) -> None:
    given = [a.format(page=page, trace=samples.path(EAGER)) for a in arguments]
    result = CliRunner().invoke(cli, ["analyze", *given, "--no-cache"])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_a_report_of_another_gpu_is_refused(tmp_path: Path, eager: Trace) -> None:
    page = raw_page(tmp_path / "a100.csv", eager, {ACTIVATION: counters(4, 1, 1, 1)}, gpu="NVIDIA A100-SXM4-80GB")
    with pytest.raises(UsageError, match=r"was profiled on NVIDIA A100-SXM4-80GB, .* on NVIDIA H200"):
        _with(eager, page)


@pytest.fixture
def run(tmp_path: Path, eager: Trace) -> Path:
    folder = tmp_path / "run"
    stages = []
    for mode, sample in (("eager", EAGER), ("graph", GRAPH)):
        target = folder / f"{mode}-torch" / samples.path(sample).name
        target.parent.mkdir(parents=True)
        shutil.copyfile(samples.path(sample), target)
        name = target.relative_to(folder).as_posix()
        stages.append({"name": f"{mode}-torch", "mode": mode, "profiler": "torch", "files": [{"path": name}]})
    (folder / "eager-ncu").mkdir()
    raw_page(folder / "eager-ncu" / "all.csv", eager, {ACTIVATION: counters(4.42, 12.9, 17.5, 3_680_000)})
    raw_page(folder / "eager-ncu" / "norm.csv", eager, {"FusedAddRMSNormKernel": counters(4.13, 7, 7, 1_070_000)})
    files = [{"path": "eager-ncu/all.csv"}, {"path": "eager-ncu/norm.csv"}, {"path": "eager-ncu/gone.csv"}]
    stages.append({"name": "eager-ncu", "mode": "eager", "profiler": "ncu", "files": files})
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "stages": stages}), encoding="utf-8")
    return folder


def test_a_run_directory_merges_its_reports(run: Path) -> None:
    opened = tq.open(run)
    assert isinstance(opened, TraceSet)
    assert [t.source for t in opened.traces] == ["torch_profiler", "torch_profiler"]
    assert [t.table("ncu_matches").height for t in opened.traces] == [2, 0]
    assert opened.sql("select count(*) n from ncu_kernels")["n"][0] == 2
    assert opened.sql("select count(*) n from gemms where m = 64")["n"][0] == 2 * 3 * 129


def test_workers_merge_as_one_process_does(run: Path) -> None:
    places, missing = fleet.locations([run])
    assert len(places) == 2
    report = fleet.assemble([*(fleet.summarise(place, fleet.Setup()) for place in places), *missing], fleet.Setup())
    together = json.loads(json.dumps(report.document()))
    assert together == json.loads(json.dumps(document(tq.analyze(run))))
    assert [len(t.get("counters", {}).get("kernels", ())) for t in together["traces"]] == [2, 0]


def test_a_query_over_a_run_directory(run: Path) -> None:
    query = "select n, k, count(*) calls from gemms where source = 'alignment' group by n, k order by n, k"
    result = CliRunner().invoke(cli, ["query", str(run), query, "--format", "json", "--no-cache"])
    assert json.loads(result.stdout)[0] == {"n": 4096, "k": 4096, "calls": 96}
