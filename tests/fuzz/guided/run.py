"""Fuzz one target under coverage: ``NUMBA_DISABLE_JIT=1 python -m fuzz.guided.run torch-scan --seconds 600``.

Needs atheris. Every module of traceql is instrumented, its compiled loops run as Python. The corpus grows in ``--work``;
crashes go to ``crashes/`` there, one for each place that breaks, and the run goes on. ``--keep`` merges the corpus of a
target to the smallest inputs with the same coverage and puts it into ``corpus/``, which the suite runs again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from random import Random
from types import FrameType
from typing import TYPE_CHECKING

from fuzz.guided import CORPUS

if TYPE_CHECKING:
    from fuzz.guided.targets import Guided

_PROGRAM = "FUZZ_GUIDED_PROGRAM"
_ADDRESS_BYTES = 6 << 30
_GROWTH_KIB = 400_000  # in one execution
_RSS_MIB = 2500
_HANG_S = 10  # of processor time
_STUCK_S = 120  # of any time
_KEPT_BYTES = 120_000  # of corpus a target
_STATISTICS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


class HangError(BaseException):
    """An execution took longer than it may; no ``except Exception`` may take it for an answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("fuzz-guided"))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_known_args()[0]
    if given.inside:
        _fuzz(given)
    elif given.keep:
        _keep_corpus(given)
    else:
        _watched(given)


def _folder(given: argparse.Namespace) -> Path:
    folder: Path = given.work / given.target
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    return folder


def _command(given: argparse.Namespace, *flags: str) -> list[str]:
    return [sys.executable, "-m", "fuzz.guided.run", given.target, "--inside", f"--work={given.work}", "--", *flags]


def _watched(given: argparse.Namespace) -> None:
    """Run children until the time is over; one that dies counts as a crash, the next one goes on."""
    folder = _folder(given)
    end = time.monotonic() + given.seconds
    seed = given.seed
    while (left := end - time.monotonic()) > 1:
        log = folder / f"{seed}.log"
        flags = [f"-max_total_time={left:.0f}", f"-seed={seed}", f"-runs={given.runs}"]
        with log.open("w") as output:
            code = subprocess.run(_command(given, *flags), stdout=output, stderr=output, check=False).returncode
        text = log.read_text(errors="replace")
        found = _STATISTICS.findall(text)
        executions = re.search(r"stat::number_of_executed_units: (\d+)", text)
        at = re.findall(r"^#(\d+)\s", text, re.MULTILINE)
        line = {
            "target": given.target, "seed": seed, "code": code, "executions": int(executions[1] if executions else at[-1] if at else 0),
            "edges": int(found[-1][0]) if found else 0, "features": int(found[-1][1]) if found else 0, "corpus": int(found[-1][2]) if found else 0,
        }  # fmt: skip
        outcomes = folder / "outcomes.json"
        if outcomes.exists():
            line.update(json.loads(outcomes.read_text()))
        with (given.work / "counts.jsonl").open("a") as counts:
            counts.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        if given.runs > 0 or not line["executions"]:
            break
        seed += 1


def _keep_corpus(given: argparse.Namespace) -> None:
    """The smallest inputs that reach what all of the corpus reaches, few enough to lie in the repository."""
    folder = _folder(given)
    with tempfile.TemporaryDirectory() as scratch:
        merged = Path(scratch) / "merged"
        merged.mkdir()
        # libFuzzer starts its own program again, one process after the other: here that is Python with this module
        program = Path(scratch) / "program"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(_command(given))} "$@"\n')
        program.chmod(0o755)
        command = [str(program), "-merge=1", str(merged), str(folder / "corpus")]
        environment = {**os.environ, _PROGRAM: str(program)}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        kept = CORPUS / given.target
        kept.mkdir(parents=True, exist_ok=True)
        for old in kept.iterdir():
            old.unlink()
        size = 0
        for path in sorted(merged.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
            size += path.stat().st_size
            if size > _KEPT_BYTES:
                break
            name = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            (kept / name).write_bytes(path.read_bytes())
    print(f"{given.target}: {len(list(kept.iterdir()))} inputs, {min(size, _KEPT_BYTES)} bytes")


# --- inside the child ------------------------------------------------------------------------------------------------


def _fuzz(given: argparse.Namespace) -> None:
    import atheris

    if os.environ.get("NUMBA_DISABLE_JIT") != "1":
        raise SystemExit("set NUMBA_DISABLE_JIT=1: machine code has no coverage")
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _hang)
    target = _instrumented(given.target)
    folder = _folder(given)
    for number, seed in enumerate(target.seeds()):
        (folder / "corpus" / f"seed{number}").write_bytes(seed)
    flags = sys.argv[sys.argv.index("--") + 1 :]
    places = [] if any(flag.startswith("-merge") for flag in flags) else [str(folder / "corpus")]
    program = os.environ.get(_PROGRAM, sys.argv[0])
    options = [
        f"-max_len={target.most_bytes}", f"-timeout={_STUCK_S}", f"-rss_limit_mb={_RSS_MIB}", "-print_final_stats=1",
        "-len_control=0", "-mutate_depth=2", f"-artifact_prefix={folder}/died-",
    ]  # fmt: skip

    def changed(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.15 and target.name != "t.sqlite":
            return bytes(atheris.Mutate(data, most))
        try:
            return target.mutate(random, data)[:most]
        except (ValueError, TypeError, LookupError, RecursionError, MemoryError):  # what it made cannot be changed so
            return bytes(atheris.Mutate(data, most))

    atheris.Setup([program, *options, *flags, *places], _Runner(target, folder), custom_mutator=changed)
    atheris.Fuzz()


def _instrumented(name: str) -> Guided:
    """The target, every module it may use imported under the eyes of atheris, loops as Python."""
    import atheris

    with atheris.instrument_imports(include=["traceql"], enable_loader_override=False):
        import traceql

        for module in pkgutil.walk_packages(traceql.__path__, "traceql."):
            if ".collectors." not in module.name or module.name.endswith("manifest"):
                with suppress(ImportError):  # needs a package that is not here
                    importlib.import_module(module.name)
        from fuzz.guided import plain_scanner
        from fuzz.guided.targets import TARGETS
    plain_scanner.take_over()
    if name == "torch-parsers":
        from traceql.loaders import kineto_pieces, scan_code

        kineto_pieces.scanner = scan_code.scanner = plain_scanner.PlainScanner
    return TARGETS[name]


def _hang(signum: int, frame: FrameType | None) -> None:
    raise HangError(f"no end after {_HANG_S} s of processor time")


class _Runner:
    """One execution after the other, within bounds; what breaks is kept and the run goes on."""

    def __init__(self, target: Guided, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        os.environ["TRACEQL_CACHE"] = str(self.scratch / "kept")
        self.counted = {"read": 0, "refused": 0, "crashes": 0}
        self.written = time.monotonic()

    def __call__(self, data: bytes) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, _HANG_S)
        try:
            self.counted[self.target.run(data, self.scratch)] += 1
        except BaseException as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.counted["crashes"] += _note(self.folder, data, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > _GROWTH_KIB:
            self.counted["crashes"] += _note(self.folder, data, MemoryError(f"grew by {grown} KiB"))
        if time.monotonic() - self.written > 1:
            self.written = time.monotonic()
            (self.folder / "outcomes.json").write_text(json.dumps(self.counted))


def _note(folder: Path, data: bytes, error: BaseException) -> int:
    """Keep the first input of each place that breaks; 1 for a new one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "fuzz" not in frame.filename]
    own = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames if "site-packages" not in frame.filename][
        -2:
    ]
    place = " ".join(
        [type(error).__name__, *own, re.sub(r"\d+", "", str(error))[:60] if isinstance(error, AssertionError) else ""]
    )
    kept = folder / "crashes" / hashlib.sha256(place.encode()).hexdigest()[:8]
    if kept.exists():
        return 0
    kept.mkdir(parents=True)
    (kept / "input").write_bytes(data)
    (kept / "traceback.txt").write_text("".join(traceback.format_exception(error)), errors="replace")
    print(f"CRASH {kept.name}: {place}", flush=True)
    return 1


if __name__ == "__main__":
    main()
