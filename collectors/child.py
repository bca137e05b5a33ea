"""Run one child process: its output in a log, a time limit, and an end that reaches exactly what was started.

The child leads its own session, so a Ctrl-C at the terminal reaches it only through us, in order: interrupt, terminate,
kill. Helpers that left its process group (profilers start daemons) are known by a variable in their environment, which
only what we started carries; nothing else is ever signalled.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .command import Command, shown
from .problems import CollectError

MARK = "TRACEQL_CHILD"
"""Set in the environment of every child and inherited by what it starts."""

_TAIL_BYTES = 65_536
_POLL_S = 0.2

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl = getattr(ctypes.CDLL(None), "prctl", None)

Tick = Callable[[float, str, str], None]
"""Called several times a second with the elapsed seconds, the child's state and its last line of output."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended. ``exit_code`` is None when a signal ended it."""

    exit_code: int | None
    signal: str | None
    timed_out: bool
    interrupted: bool
    duration_s: float
    last_line: str = ""
    """What it said last before it was stopped for taking too long."""

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and not self.timed_out and not self.interrupted


def _end_with_parent() -> None:
    """Ask the kernel, in the child, to terminate it when we are gone: a killed collect must not leave a GPU held."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """A running child. ``start`` it, ``wait`` for it or ``stop`` it."""

    def __init__(self, command: Command, log: Path, *, grace_s: float = 20.0, folder: Path | None = None) -> None:
        self.command = command
        self.log = log
        self.grace_s = grace_s
        self._folder = folder
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def start(self) -> None:
        """Start the child; CollectError when its program cannot be run."""
        # unbuffered, so that the log tells what a child did last
        environment = {"PYTHONUNBUFFERED": "1", **os.environ, **self.command.environment, MARK: self._mark}
        with self.log.open("ab") as output:
            output.write(f"# {shown(self.command, self._folder)}\n".encode())
            output.flush()
            try:
                self._process = subprocess.Popen(
                    self.command.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    env=environment, start_new_session=True,
                    preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, looked up before the fork
                )  # fmt: skip
            except OSError as error:
                raise CollectError(f"{self.command.argv[0]}: cannot be run ({error.strerror or error})") from error
        self._started = time.monotonic()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def wait(self, timeout_s: float, tick: Tick | None = None) -> Outcome:
        """Wait until the child ends, the limit passes or the user interrupts; in the last two cases stop it."""
        timed_out = interrupted = False
        said = ""
        try:
            while self.running:
                if self.elapsed_s > timeout_s:
                    timed_out, said = True, last_line(self.log)
                    self.stop()
                    break
                if tick is not None:
                    tick(self.elapsed_s, self.state(), last_line(self.log))
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            interrupted = True
            self.stop()
        return self.outcome(timed_out=timed_out, interrupted=interrupted, said=said)

    def outcome(self, *, timed_out: bool = False, interrupted: bool = False, said: str = "") -> Outcome:
        """How the child ended; call when it no longer runs."""
        code = self._process.poll() if self._process is not None else None
        by_signal = signal.Signals(-code).name if code is not None and code < 0 else None
        exit_code = code if code is not None and code >= 0 else None
        return Outcome(exit_code, by_signal, timed_out, interrupted, round(self.elapsed_s, 3), said)

    def state(self) -> str:
        """What the kernel says the child does: running, sleeping, in the kernel …; empty where /proc is missing."""
        if self._process is None:
            return ""
        try:
            letter = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return ""
        return {"R": "running", "S": "waiting", "D": "in the kernel", "T": "stopped", "Z": "ended"}.get(letter, "")

    def stop(self) -> None:
        """End the child and all it started: interrupt, terminate, kill. A second Ctrl-C goes straight to the kill."""
        if self._process is None:
            return
        with contextlib.suppress(KeyboardInterrupt):
            for number, grace_s in ((signal.SIGINT, self.grace_s), (signal.SIGTERM, self.grace_s / 2)):
                self._signal_group(number)
                if self._ends_within(grace_s):
                    break
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        self.end_leftovers()

    def end_leftovers(self) -> None:
        """End processes that the child started and that outlived it, wherever they moved to."""
        for number, grace_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 1.0)):
            left = _signal_marked(self._mark, number)
            deadline = time.monotonic() + grace_s
            while left and time.monotonic() < deadline:
                time.sleep(0.1)
                left = _signal_marked(self._mark, None)
            if not left:
                return

    def _signal_group(self, number: signal.Signals) -> None:
        assert self._process is not None
        # the child leads its group, and the group's number is not given away while we have not waited for the child
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _ends_within(self, seconds: float) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return True
            time.sleep(0.05)
        return False


def run(
    command: Command,
    log: Path,
    *,
    timeout_s: float,
    tick: Tick | None = None,
    folder: Path | None = None,
    grace_s: float = 20.0,
) -> Outcome:
    """Run a child to its end; see Child."""
    child = Child(command, log, folder=folder, grace_s=grace_s)
    child.start()
    outcome = child.wait(timeout_s, tick)
    child.end_leftovers()
    return outcome


def ask(argv: list[str], *, timeout_s: float = 20.0, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and joined output of a short command; (127, reason) when it cannot be run, (124, …) when it hangs."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            timeout=timeout_s, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, f"{Path(argv[0]).name} did not answer in {timeout_s:g} s"
    except OSError as error:
        return 127, f"{argv[0]}: {error.strerror or error}"
    return done.returncode, done.stdout.decode("utf-8", "replace")


def tail(log: Path, size: int = _TAIL_BYTES) -> str:
    """The end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def last_line(log: Path) -> str:
    """The last line with text in it; of a progress bar, its last state."""
    lines = tail(log, 4096).replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("# ")), "")


def _signal_marked(mark: str, number: signal.Signals | None) -> int:
    """Signal every process whose environment carries ``mark``; how many there are. None only counts."""
    wanted = f"{MARK}={mark}".encode()
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        try:
            handle = os.pidfd_open(pid)  # holds this very process: the number cannot be reused under us
        except (OSError, AttributeError):
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                count += 1
                if number is not None:
                    signal.pidfd_send_signal(handle, number)
        except OSError:
            continue
        finally:
            os.close(handle)
    return count
