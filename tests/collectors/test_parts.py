"""The small parts: topology, clocks, tokenizer, what is written down, problems, children, sweeps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from traceql.collectors import (
    child,
    clocks,
    command,
    manifest,
    model_shapes,
    ncu,
    problems,
    run_directory,
    sweep,
    topology,
)
from traceql.collectors.command import Command
from traceql.collectors.manifest import Latency, Machine, Manifest, Software, Stage, Workload

from traceql.errors import TraceqlError, UnreadableTraceError

EIGHT = "\t" + "\t".join(f"GPU{i}" for i in range(4)) + "\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
BOARD = (
    EIGHT
    + "GPU0\t X \tNV4\tNODE\tSYS\tPXB\t0-15\t0\t\tN/A\n"
    + "GPU1\tNV4\t X \tPXB\tSYS\tPXB\t0-15\t0\t\tN/A\n"
    + "GPU2\tNODE\tPXB\t X \tSYS\tSYS\t0-15\t0\t\tN/A\n"
    + "GPU3\tSYS\tSYS\tSYS\t X \tSYS\t16-31\t1\t\tN/A\n"
    + "NIC0\tPXB\tPXB\tSYS\tSYS\t X \n\nLegend:\n  X = Self\n"
)


def test_topology_groups() -> None:
    board = topology.parse(BOARD)
    assert board.links["GPU0"] == {"GPU1": "NV4", "GPU2": "NODE", "GPU3": "SYS"}
    assert board.numa == {"GPU0": "0", "GPU1": "0", "GPU2": "0", "GPU3": "1"}
    everything = [0, 1, 2, 3]
    assert topology.group(board, everything, 2, "nvlink") == (0, 1)
    assert topology.group(board, everything, 2, "numa") == (0, 2)
    assert topology.group(board, everything, 2, "across") == (0, 3)
    assert topology.group(board, everything, 4, "nvlink") is None
    assert topology.group(board, [2, 3], 2, "nvlink") is None
    assert topology.kind_of(board, (1,)) == "single"
    assert topology.kind_of(topology.parse("no matrix"), (0, 1)) is None


def test_switched_board_spans_nodes_by_nvlink() -> None:
    rows = ["\tGPU0\tGPU1\tGPU2\tCPU Affinity\tNUMA Affinity"]
    for gpu, node in ((0, 0), (1, 0), (2, 1)):
        links = ["X" if other == gpu else "NV18" for other in range(3)]
        rows.append("\t".join([f"GPU{gpu}", *links, "0-7", str(node)]))
    board = topology.parse("\n".join(rows))
    assert topology.group(board, [2, 1, 0], 2, "nvlink") == (0, 1)
    assert topology.group(board, [0, 1, 2], 2, "across") == (0, 2)


def test_clocks_are_summed_up_over_busy_samples() -> None:
    text = (
        "0, 345, 3201, 0, 75.1, 30, 0x0000000000000001\n"  # idle: left out
        "0, 1980, 3201, 99, 600.5, 60, 0x0000000000000000\n"
        "0, 1500, 3201, 98, 699.5, 71, 0x0000000000000024\n"
        "0, 1980, 3201, 98, [N/A], 70, 0x0000000000000000\n"
        "1, 1980, 3201, 5, 100.0, 40, 0x0000000000000000\n"
        "0, 1980, 32"  # cut off
    )
    (found,) = clocks.summarize(text)
    assert (found.gpu, found.samples) == (0, 3)
    assert (found.sm_mhz_min, found.sm_mhz_median, found.sm_mhz_max) == (1500, 1980, 1980)
    assert (found.power_w_max, found.temperature_c_max) == (699.5, 71)
    assert found.throttle_reasons == {"software power cap": 1, "software thermal slowdown": 1}
    assert found.throttled


def test_shapes_have_a_tokenizer_for_every_byte(tmp_path: Path) -> None:
    folder = model_shapes.write("llama-3-8b", root=tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]) == (4096, 32, 128256)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == 259
    assert sorted(vocabulary.values()) == list(range(259))
    assert len(set(model_shapes.byte_alphabet())) == 256
    assert all(c.isprintable() and not c.isspace() for c in model_shapes.byte_alphabet())
    assert model_shapes.byte_alphabet()[ord("a")] == "a"
    short = model_shapes.write("llama-3-8b", 4, root=tmp_path)
    assert short.name == "llama-3-8b-4-layers"
    assert json.loads((short / "config.json").read_text())["num_hidden_layers"] == 4
    assert model_shapes.config_hash(folder) != model_shapes.config_hash(short)
    assert model_shapes.config_hash(tmp_path / "none") is None
    assert all(shape.vocabulary >= 10_000 for shape in model_shapes.SHAPES.values())


def test_tokenizer_loads_where_the_library_is(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    text = "Ein Satz – 한 문장\n\t\x00 🙂"
    loaded = tokenizers.Tokenizer.from_file(str(model_shapes.write("tiny", root=tmp_path) / "tokenizer.json"))
    assert loaded.decode(loaded.encode(text).ids) == text


@pytest.mark.parametrize(
    ("words", "recorded"),
    [
        (["--api-key", "x", "--port", "1"], ["--api-key", "***", "--port", "1"]),
        (["--api-key=x"], ["--api-key=***"]),
        (["--hf-token", "x"], ["--hf-token", "***"]),
        (["--max-total-tokens", "4096"], ["--max-total-tokens", "4096"]),
        (["--tokenizer-path", "t"], ["--tokenizer-path", "t"]),
        (["/opt/venv/bin/python3.12", "/x/nsys", "/run/a/b"], ["python3.12", "nsys", "RUN/b"]),
    ],
)
def test_what_is_written_down(words: list[str], recorded: list[str]) -> None:
    assert command.recorded_argv(words, Path("/run/a")) == recorded


def test_home_folder_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert command.portable("/home/someone/model") == "~/model"
    assert command.portable("--file=/home/someone/model") == "--file=~/model"
    assert command.portable("/home/someone-else") == "/home/someone-else"
    seen = command.recorded_environment(
        {"NCCL_ALGO": "Ring", "SGLANG_HOST_IP": "10.0.0.1", "CUDA_VISIBLE_DEVICES": "GPU-12ab", "PATH": "/bin", "OMP_NUM_THREADS": "4"}
    )  # fmt: skip
    assert seen == {"NCCL_ALGO": "Ring", "SGLANG_HOST_IP": None, "CUDA_VISIBLE_DEVICES": None, "OMP_NUM_THREADS": "4"}


def test_search_path_of_the_caller_is_not_written_down() -> None:
    added = Command(("python", "x.py"), {"PYTHONPATH": "/run/a/torch/.inject:/somewhere/site", "A": "1"})
    assert command.shown(added, Path("/run/a")) == "A=1 PYTHONPATH=RUN/torch/.inject:… python x.py".replace(
        "RUN/torch/.inject:…", "'RUN/torch/.inject:…'"
    )


@pytest.mark.parametrize(
    ("log", "what"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - The user does not", "no permission for the GPU's performance counters"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "the GPU ran out of memory"),
        ("OSError: x is not a local folder and is not a valid model identifier", "the model was not found"),
        ("[Errno 98] Address already in use", "a port that the program needs is in use"),
        ("skipping (64, 512, 32) due to max batch size limit", "the KV cache is too small"),
        ("RuntimeError: No CUDA GPUs are available", "the program sees no GPU"),
        ("ModuleNotFoundError: No module named 'numpy'", "a Python module is missing (numpy)"),
        ("one_batch.py: error: unrecognized arguments: --x 1", "sglang does not know an option (--x 1)"),
        ("NCCL error in: ProcessGroupNCCL.cpp", "the GPUs could not talk to each other"),
        ("ModuleNotFoundError: No module named 'sgl_kernel.flash_ops'", "this sglang has no FlashAttention 3 kernels"),
    ],
)
def test_logs_are_explained(log: str, what: str) -> None:
    problem = problems.explain(f"Load weight end.\n{log}\nTraceback …")
    assert problem is not None
    assert problem.what.startswith(what)
    assert problem.fix


def test_unknown_logs_give_their_last_error() -> None:
    assert problems.explain("all is well") is None
    assert problems.last_error_line("# cmd\nfirst\nValueError: bad\nbye\n") == "ValueError: bad"
    assert problems.last_error_line("") == "no output"


@pytest.mark.parametrize(
    ("preset", "kernels"),
    [
        ("attention", ["flashinfer::BatchDecodeWithPagedKVCacheKernel", "_fwd_kernel_stage1", "flash_fwd_splitkv_kernel"]),
        ("gemm", ["nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "cutlass::device_kernel", "sm90_xmma_gemm_bf16"]),
        ("norm", ["FusedAddRMSNormKernel", "rms_norm_kernel"]),
        ("communication", ["ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "cross_device_reduce_1stage", "multimem_all_reduce_kernel"]),
        ("all", ["nvjet_x", "act_and_mul_kernel", "store_kvcache", "BatchQKApplyRotary", "rms_norm_kernel"]),
    ],
)  # fmt: skip
def test_presets_match_their_kernels(preset: str, kernels: list[str]) -> None:
    for kernel in kernels:
        assert re.search(ncu.PRESETS[preset], kernel), kernel
    assert not re.search(ncu.PRESETS["norm"], "nvjet_tst_64x8")


def test_child_reports_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = child.run(Command((sys.executable, "-c", "print('one'); raise SystemExit(4)")), log, timeout_s=20)
    assert (done.exit_code, done.ok, done.timed_out) == (4, False, False)
    assert child.last_line(log) == "one"
    killed = child.run(Command((sys.executable, "-c", "import os; os.abort()")), log, timeout_s=20)
    assert (killed.exit_code, killed.signal) == (None, "SIGABRT")
    with pytest.raises(TraceqlError, match="no-such: cannot be run"):
        child.run(Command(("no-such",)), log, timeout_s=1)
    assert child.ask([sys.executable, "-c", "import time; time.sleep(9)"], timeout_s=0.2)[0] == 124
    assert child.ask(["no-such"])[0] == 127


def test_only_marked_processes_are_ended(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"
        outcome = child.run(Command((sys.executable, "-c", code)), tmp_path / "log", timeout_s=20)
        assert outcome.ok
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_latest_is_replaced_and_real_folders_are_not(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        (runs / name).mkdir(parents=True)
        run_directory.link_latest(runs / name, runs)
        assert (runs / "latest").resolve() == runs / name
    assert not Path((runs / "latest").readlink()).is_absolute()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_directory.link_latest(elsewhere, runs)
    assert (runs / "latest").resolve() == elsewhere
    run_directory.link_latest(elsewhere, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (runs / "latest").unlink()
    (runs / "latest").mkdir()
    run_directory.link_latest(runs / "a", runs)
    assert (runs / "latest").is_dir()
    assert not (runs / "latest").is_symlink()


def test_manifest_survives_writing_and_newer_keys(tmp_path: Path) -> None:
    written = _manifest("run", {"eager": 13.4, "graph": 7.2})
    manifest.write(tmp_path, written)
    assert manifest.read(tmp_path) == written
    text = json.loads((tmp_path / "manifest.json").read_text())
    text["from_the_future"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(text))
    assert manifest.read(tmp_path) == written
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UnreadableTraceError, match="not a run's manifest"):
        manifest.read(tmp_path)


def test_manifest_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "collecting.md").read_text(encoding="utf-8")
    for struct in (Manifest, Stage, Latency, Workload, Machine, Software, manifest.Clocks, manifest.File, manifest.Gpu):
        for field in msgspec.structs.fields(struct):
            assert f"`{field.name}`" in page, f"docs/collecting.md does not describe {struct.__name__}.{field.name}"


def test_sweep_points_and_table() -> None:
    points = sweep.points(
        batch_sizes=[1, 64], input_lens=[512], backends=["triton"], tps=[1, 2], topologies=["nvlink", "numa"]
    )
    names = [p.name(sweep.varying(points)) for p in points]
    assert names == ["bs1-tp1", "bs64-tp1", "bs1-tp2-nvlink", "bs64-tp2-nvlink", "bs1-tp2-numa", "bs64-tp2-numa"]
    one, two = _manifest("one", {"eager": 13.4, "graph": 7.2}), _manifest("two", {"graph": 4.5})
    two.workload.tp = 2
    rows = sweep.table([("one", one), ("two", two)])
    assert [row[:3] for row in rows] == [
        ("one", "eager", "13.400"),
        ("one", "graph", "7.200"),
        ("two", "graph", "4.500"),
    ]
    assert rows[1][5] == "1.86"
    assert rows[2][6] == "80"  # 7.2 / (4.5 * 2)
    assert sweep.lines(rows)[0].split() == [
        "run",
        "mode",
        "ms/step",
        "tokens/s",
        "eager/graph",
        "TP",
        "efficiency",
        "%",
        "status",
    ]


def _manifest(name: str, latencies: dict[str, float]) -> Manifest:
    stages = [
        Stage(
            name=f"{mode}-latency", profiler="none", mode=mode, status="complete", started="2026-01-31T00:00:00+00:00",
            latency=Latency(
                what="decode step", runs_ms=[ms], median_ms=ms, spread_pct=0.0, tokens_per_s=1000.0, source="result file"
            ),
        )
        for mode, ms in latencies.items()
    ]  # fmt: skip
    return Manifest(
        name=name, status="complete", traceql="0", collector="sglang", command=["traceql", "collect"],
        started="2026-01-31T00:00:00+00:00", started_unix_ns=0, machine=Machine(), software=Software(), stages=stages,
        workload=Workload(engine="sglang", model="m", batch_size=64, input_len=512, output_len=32),
    )  # fmt: skip
