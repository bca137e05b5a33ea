"""`traceql collect server` with a fake server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from traceql.collectors import load

FAST = ["--mode", "graph", "--batch-size", "4", "--input-len", "16", "--repeats", "2"]


def test_server_is_measured_recorded_and_ended(machine) -> None:
    code, text = machine.run("collect", "server", "--tp", "2", *FAST)
    assert code == 0, text
    run = machine.latest()
    stage = run.stage("graph-server")
    assert [f.path for f in stage.files if f.kind == "trace"] == [
        f"graph-server/1700000000.0-TP-{rank}.trace.json.gz" for rank in (0, 1)
    ]
    assert len(stage.latency.runs_ms) == 2
    assert stage.latency.median_ms > 4
    assert stage.latency.source == "load generator"
    port = int(stage.command[stage.command.index("--port") + 1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # it is gone


def test_port_in_use_is_named(machine) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, text = machine.run("collect", "server", *FAST, "--port", str(port))
    assert code == 2
    assert f"port {port} is in use" in text
    assert "give another with --port" in text


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        ("crash", "a port that the program needs is in use"),
        ("refuse", "/start_profile answered 500: Profiling is already in progress"),
    ],
)
def test_failing_server_is_explained(machine, failure: str, problem: str) -> None:
    machine.environment["FAKE_SGLANG"] = failure
    code, text = machine.run("collect", "server", *FAST)
    assert code == 2
    assert problem in text
    assert machine.newest().stage("graph-server").problem == problem


def test_running_server_is_recorded_and_left_alone(machine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fake = Path(__file__).parent / "fakes" / "launch_server.py"
    server = subprocess.Popen([sys.executable, str(fake), "--port", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while load.get_status(url, "/health", 1.0) != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        code, text = machine.run("collect", "server", "--url", url, *FAST)
        assert code == 0, text
        assert machine.latest().traces() == ["server/1700000000.0-TP-0.trace.json.gz"]
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()
    code, text = machine.run("collect", "server", "--url", url, *FAST)
    assert code == 2
    assert f"{url}: no SGLang server answers there" in text


def test_load_is_the_same_each_time_and_shares_prefixes() -> None:
    shape = load.Shape(requests=4, input_len=32, output_len=4, shared_prefix=16, seed=7)
    first, second = load.prompts(shape), load.prompts(shape)
    assert first == second
    assert [len(ids) for ids in first] == [32] * 4
    assert first[1][:16] == first[3][:16]
    assert first[0][:16] != first[1][:16]
    assert all(3 <= token <= 9_999 for ids in first for token in ids)


def test_step_time_counts_only_while_all_decode() -> None:
    wave = load.Wave("http://127.0.0.1:1", load.Shape(2, 4, 4), timeout_s=1)
    wave.answers[0].token_times = [(0.0, 1), (0.1, 2), (1.0, 3), (1.2, 4), (1.4, 5)]
    wave.answers[1].token_times = [(1.0, 1), (1.2, 2), (1.6, 4)]
    assert wave.step_ms() == pytest.approx(200)  # 0.1 and 0.9 s lie before the second request's first token
