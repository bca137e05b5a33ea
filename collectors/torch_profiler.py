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
    """Why there is no trace, as far as the events tell; None when there is one."""
    names = {event["event"] for event in reported}
    if "written" in names:
        return None
    error = next((f"{e.get('where')}: {e.get('error')}" for e in reported if e["event"] == "error"), None)
    wanted = options.skip + options.warmup + options.active
    causes = (
        (
            error is not None,
            Problem(f"the injected profiler failed ({error})", "see the stage's log and inject-*.jsonl"),
        ),
        (
            "torch imported" not in names,
            Problem(
                "no Python process of the program imported torch, or it ran with -S, -E or -I, which keep the profiler out",
                "start it without these flags; for a program without torch use `traceql collect nsys -- …`",
            ),
        ),
        (
            "too few steps" in names,
            Problem(
                f"the program ended before the steps to record (needs more than {wanted})", "lower --skip or --steps"
            ),
        ),
        (
            bool(options.active) and "step on" not in names,
            Problem(f"no step was seen: {options.step_on} was never called", "name what ends a step with --step-on"),
        ),
        (
            "not written" in names,
            Problem("no process of the program used the GPU", "check that it runs on the GPU"),
        ),
    )
    unfinished = Problem(
        "the program ended without letting its profiler finish", "let it end normally, not by os._exit"
    )
    return next((cause for holds, cause in causes if holds), unfinished)


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
