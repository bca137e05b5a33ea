"""Record a running SGLang server under load: every rank writes its own trace.

Either a server of our own, which is ended afterwards, or one that runs already and is left alone.
"""

from __future__ import annotations

import gzip
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from . import load, manifest
from .child import Child, Outcome, last_line
from .command import Command
from .manifest import Latency, Profiler
from .problems import CollectError, Problem
from .stage import Done, Room

_SETTLE_S = 2.0
_SHOWN_PORT = 30000  # SGLang's own default, where a plan is only shown
_POLL_S = 0.2
_UNRECORDED = 1
"""Steps a server counts but does not record: SGLang 0.5.12 stops while the last one begins, and two of three were whole."""
_MARGIN_TOKENS = 48
"""Tokens generated beyond the recorded steps: the profiler starts a few steps after it is asked to."""


@dataclass(frozen=True)
class ServerWork:
    """Launch a server (or use ``url``), measure it, record it, and end it if it is ours."""

    name: str
    mode: str | None
    what: str
    launch: Callable[[int], Command] | None
    """Port → the server's command; None for a server that runs already."""
    port: int | None
    url: str | None
    shape: load.Shape
    steps: int
    ranks: int
    repeats: int
    stacks: bool = False

    @property
    def profiler(self) -> Profiler:
        return "torch"

    def build(self, _folder: Path) -> Command:
        """The server's command, or the request to one that runs already."""
        if self.launch is None:
            return Command(("POST", f"{self.url}/start_profile"))
        return self.launch(self.port or _SHOWN_PORT)

    def execute(self, room: Room) -> Done:
        """Start it if need be, measure, record, and end it if it is ours."""
        server: Child | None = None
        url = self.url or ""
        if self.launch is not None:
            port = self.port or free_port()
            require_free(port)
            server, url = Child(self.launch(port), room.log, folder=room.run), f"http://127.0.0.1:{port}"
            server.start()
        latency: Latency | None = None
        problem: Problem | None = None
        interrupted = timed_out = ended = False
        said = ""
        begin = time.monotonic()
        try:
            session = _Session(self, url, room, server)
            session.wait_until_ready()
            latency, problem = session.measure_and_record()
        except KeyboardInterrupt:
            interrupted = True
        except _TimedOutError:
            timed_out, said = True, last_line(room.log)
        except _EndedError:
            ended = True
        finally:
            if server is not None:
                server.stop()
        if server is None:
            outcome = Outcome(0, None, timed_out, interrupted, round(time.monotonic() - begin, 3), said)
            return Done(self.build(room.folder), outcome, latency, problem)
        outcome = server.outcome(timed_out=timed_out, interrupted=interrupted, said=said)
        # that it ended because we asked it to is no failure
        return Done(server.command, outcome, latency, problem, usable=not (ended or timed_out or interrupted))


class _EndedError(Exception):
    """The server ended by itself."""


class _TimedOutError(Exception):
    """The stage's time is over."""


class _Session:
    """One server under load."""

    def __init__(self, work: ServerWork, url: str, room: Room, server: Child | None) -> None:
        self._work, self._url, self._room, self._server = work, url, room, server
        self._begin = time.monotonic()

    def wait_until_ready(self) -> None:
        """Until /health answers 200."""
        self._until(lambda: load.get_status(self._url, "/health", 5.0) == 200)

    def measure_and_record(self) -> tuple[Latency | None, Problem | None]:
        """A warm-up, the repetitions without profiler, then one wave with it."""
        work = self._work
        self._wave(replace(work.shape, output_len=min(8, work.shape.output_len), seed=1))
        periods: list[float] = []
        for repetition in range(work.repeats):
            wave = self._wave(replace(work.shape, seed=2 + repetition))
            period = wave.step_ms()
            if period is not None:
                periods.append(period)
        latency = manifest.latency("decode step", periods, "load generator")
        if latency is not None:
            latency.tokens_per_s = round(work.shape.requests / latency.median_ms * 1000, 1)
        return latency, self._record()

    def _record(self) -> Problem | None:
        work = self._work
        shape = replace(work.shape, output_len=max(work.shape.output_len, work.steps + _MARGIN_TOKENS), seed=99)
        wave = load.Wave(self._url, shape, timeout_s=self._left_s())
        wave.start()
        self._until(lambda: wave.decoding() or not wave.running())
        if not wave.running():
            return Problem(f"the load ended before it decoded ({wave.error() or 'too short'})", "raise --output-len")
        body: dict[str, object] = {
            "output_dir": str(self._room.folder.resolve()), "num_steps": work.steps + _UNRECORDED, "activities": ["CPU", "GPU"],
            "with_stack": work.stacks, "record_shapes": True,
        }  # fmt: skip
        answers: list[tuple[int, str]] = []
        # some versions answer at once, others when the traces are written
        request = threading.Thread(target=self._start_profile, args=(body, answers), daemon=True)
        request.start()
        self._until(lambda: self._traces_complete() or (bool(answers) and answers[0][0] != 200))
        if answers and answers[0][0] != 200:
            return Problem(f"/start_profile answered {answers[0][0]}: {answers[0][1][:200]}", "see the server's log")
        wave.join(self._left_s())
        return None

    def _start_profile(self, body: dict[str, object], answers: list[tuple[int, str]]) -> None:
        try:
            answers.append(load.post(self._url, "/start_profile", body, self._left_s()))
        except OSError as error:
            answers.append((0, str(error)))

    def _wave(self, shape: load.Shape) -> load.Wave:
        wave = load.Wave(self._url, shape, timeout_s=self._left_s())
        wave.start()
        self._until(lambda: not wave.running())
        if wave.error():
            raise CollectError(f"the server refused the load ({wave.error()}); see the server's log")
        return wave

    def _traces_complete(self) -> bool:
        found = list(self._room.folder.glob("*.trace.json.gz"))
        return len(found) >= self._work.ranks and all(_is_settled(path) for path in found)

    def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if self._server is not None and not self._server.running:
                raise _EndedError
            if self._left_s() <= 1.0:
                raise _TimedOutError
            if self._server is not None:
                self._room.tick(self._server.elapsed_s, self._server.state(), last_line(self._room.log))
            time.sleep(_POLL_S)

    def _left_s(self) -> float:
        return max(1.0, self._room.timeout_s - (time.monotonic() - self._begin))


def free_port() -> int:
    """A free port low enough that the ports sglang derives from it (its gRPC port is 10,000 higher) exist."""
    for port in random.sample(range(20_000, 50_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise CollectError("no free port between 20000 and 50000 on 127.0.0.1; give one with --port")


def require_free(port: int) -> None:
    """CollectError when something listens on ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CollectError(
                f"port {port} is in use ({error.strerror}); give another with --port (0 finds one), or record that "
                f"server with --url http://127.0.0.1:{port}"
            ) from error


def _is_settled(path: Path) -> bool:
    """Whether a trace is written to its end: untouched for a while, and its gzip stream ends."""
    if time.time() - path.stat().st_mtime < _SETTLE_S:
        return False
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except (OSError, EOFError):
        return False
    return True
