"""torch.profiler for any program: puts the injector on its PYTHONPATH and reads what it reported."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from . import inject, manifest
from .command import Command
from .problems import Problem


def command(program: Command, scratch: Path, options: inject.Options) -> Command:
    """``program`` with the profiler in every Python process of it. ``scratch`` keeps the injected files for the run."""
    scratch.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(inject.__file__), scratch / "traceql_inject.py")
    (scratch / "sitecustomize.py").write_text(inject.SITECUSTOMIZE, encoding="utf-8")
    existing = program.environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    path = os.pathsep.join([str(scratch), existing]) if existing else str(scratch)
    return program.with_environment(PYTHONPATH=path, **{inject.VARIABLE: json.dumps(asdict(options))})


def events(folder: Path) -> list[dict[str, object]]:
    """What the injected processes reported, oldest file first."""
    found: list[dict[str, object]] = []
    for path in sorted(folder.glob("inject-*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def problem(reported: list[dict[str, object]], options: inject.Options) -> Problem | None:
    """Why there is no trace, as far as the events tell."""
    names = {event["event"] for event in reported}
    errors = [f"{event.get('where')}: {event.get('error')}" for event in reported if event["event"] == "error"]
    if "written" in names:
        return None
    if errors:
        return Problem(f"the injected profiler failed ({errors[0]})", "see the stage's log and inject-*.jsonl")
    if "torch imported" not in names:
        return Problem(
            "no Python process of the program imported torch, or it ran with -S, -E or -I, which keep the profiler out",
            "start it without these flags; for a program without torch use `traceql collect nsys -- …`",
        )
    if "too few steps" in names:
        wanted = options.skip + options.warmup + options.active
        return Problem(
            f"the program ended before the steps to record (needs more than {wanted})", "lower --skip or --steps"
        )
    if options.active and "step on" not in names:
        return Problem(f"no step was seen: {options.step_on} was never called", "name what ends a step with --step-on")
    if "not written" in names:
        return Problem("no process of the program used the GPU", "check that it runs on the GPU")
    return Problem(
        "the program ended without letting its profiler finish", "end it normally; os._exit and SIGKILL do not"
    )


def latency(reported: list[dict[str, object]]) -> manifest.Latency | None:
    """Median period of the steps that ran before and after the recording, one figure for each process."""
    medians = []
    for event in reported:
        periods = event.get("microseconds")
        if event["event"] == "periods" and isinstance(periods, list) and periods:
            medians.append(sorted(periods)[len(periods) // 2] / 1000)
    return manifest.latency("step", medians, "steps outside the recording")


def remove_unfinished(folder: Path) -> None:
    """Remove half-written traces, which would be taken for traces."""
    for path in folder.glob(".unfinished-*"):
        path.unlink(missing_ok=True)


def remove_injected(scratch: Path) -> None:
    """Remove the injected files once the program is over."""
    shutil.rmtree(scratch, ignore_errors=True)
