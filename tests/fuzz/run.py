"""Run targets for long, outside the test suite: ``python -m fuzz.run --seed 1 --seconds 600 kineto-load nsys-load``.

Execution ``n`` of a target depends on its name, the seed and ``n`` alone: ``--only N`` repeats one. Crashes go to
``--output``: the input, the traceback and the number; a hang is one too. Every target runs in a process of its own with
bounded memory.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from types import FrameType

from fuzz.targets import TARGETS

MEMORY_BYTES = 6 << 30  # of address space: Polars reserves much more than it uses
_GROWTH_KIB = 400_000  # of resident memory in one execution
_HANG_S = 10  # of processor time
_STUCK_S = 120  # of any time
_CHILD_KIB = 2_500_000  # a child that has grown so large is replaced


class HangError(Exception):
    """An execution took longer than it may."""


def main() -> None:
    """Parse the arguments and run each target in a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--output", type=Path, default=Path("fuzz-crashes"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.targets or TARGETS:
        if given.only is not None:
            with tempfile.TemporaryDirectory() as folder:
                TARGETS[name].run(_random(name, given.seed, given.only), Path(folder))
            continue
        first, deadline = given.first, time.monotonic() + given.seconds
        while first < given.count and time.monotonic() < deadline:
            first = _in_child(name, given.seed, first, given.count, deadline, given.output)


def _random(name: str, seed: int, number: int) -> Random:
    return Random(f"{name}:{seed}:{number}")


def _in_child(name: str, seed: int, first: int, count: int, deadline: float, output: Path) -> int:
    """Run from ``first`` on; returns where to go on after the child ended, by itself or by a crash it did not survive."""
    state = mmap.mmap(-1, 8)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os._exit(_run(name, seed, first, count, deadline, output, folder, state))
    _, status = os.waitpid(child, 0)
    (at,) = struct.unpack("q", state[:])
    if status != 0:
        kept = output / f"{name}-died-{seed}-{at}"
        kept.mkdir(exist_ok=True)
        for file in folder.iterdir():
            if file.is_file():
                shutil.copy(file, kept)
        print(f"{name}: child died with status {status} at {at}", flush=True)
        _count(output, name, seed, first, at + 1 - first, 1, {"died": 1})
    shutil.rmtree(folder, ignore_errors=True)
    return int(at) + 1


def _run(
    name: str, seed: int, first: int, count: int, deadline: float, output: Path, folder: Path, state: mmap.mmap
) -> int:
    target = TARGETS[name]
    crashes = done = 0
    watched = started = time.monotonic()
    log = (output / f"{name}.{seed}.stderr").open("w")
    faulthandler.enable(log)
    faulthandler.dump_traceback_later(_STUCK_S, exit=True, file=log)
    signal.signal(signal.SIGPROF, _hang)
    signal.signal(signal.SIGTERM, _stop)
    for number in range(first, count):
        now = time.monotonic()
        if now > deadline or _memory_kib() > _CHILD_KIB:
            break
        if now - watched > _STUCK_S / 10:
            faulthandler.dump_traceback_later(_STUCK_S, exit=True, file=log)
            watched = now
        state[:] = struct.pack("q", number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, _HANG_S)
        try:
            target.run(_random(name, seed, number), folder)
        except SystemExit:
            break
        except BaseException as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            crashes += _keep(name, seed, number, error, folder, output)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        done += 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > _GROWTH_KIB and number > first + 50:
            crashes += _keep(name, seed, number, MemoryError(f"grew by {grown} KiB"), folder, output)
    faulthandler.cancel_dump_traceback_later()
    seconds = round(time.monotonic() - started)
    _count(output, name, seed, first, done, crashes, {"seconds": seconds, **target.outcomes})
    state[:] = struct.pack("q", first + done - 1)
    return 0


def _count(output: Path, name: str, seed: int, first: int, executions: int, crashes: int, more: dict[str, int]) -> None:
    """One line a process: what REPORT.md adds up."""
    line = {"target": name, "seed": seed, "first": first, "executions": executions, "crashes": crashes, **more}
    with (output / "counts.jsonl").open("a") as counts:
        counts.write(json.dumps(line) + "\n")


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit


def _memory_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 if Path("/proc/self/statm").exists() else 0


def _hang(signum: int, frame: FrameType | None) -> None:
    raise HangError(f"no end after {_HANG_S} s of processor time")


def _keep(name: str, seed: int, number: int, error: BaseException, folder: Path, output: Path) -> int:
    """Keep the first input of each place that breaks; 1 for a new one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "fuzz" not in frame.filename]
    own = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames if "site-packages" not in frame.filename][
        -2:
    ]
    place = " ".join([type(error).__name__, *own, str(error)[:40] if isinstance(error, AssertionError) else ""])
    kept = output / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    if kept.exists():
        return 0
    kept.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            shutil.copy(file, kept)
    (kept / "traceback.txt").write_text(
        f"{name} seed {seed} number {number}\n" + "".join(traceback.format_exception(error)), errors="replace"
    )
    print(f"{name}: {place}", flush=True)
    return 1


if __name__ == "__main__":
    main()
