"""The YAML cases of the rules (tests/cases/CODE/*.yml) as traces, and what the rules say of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from traceql import engine
from traceql.opening import TraceSet
from traceql.reporting import analyze
from traceql.testing import trace_from

CASES = Path(__file__).parent / "cases"
FILES = sorted(CASES.glob("*/*.yml"))


def outcomes(case: dict[str, Any], folder: Path, selection: engine.Selection) -> list[list[engine.Outcome]]:
    """Of each trace; a rule over all of them has its one outcome with the first.

    ``files`` of the case are written below ``folder``; its traces lie there too, or in the ``folders`` it names.
    """
    for name, text in case.get("files", {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    specs = case.get("traces") or [case["trace"]]
    places = [folder / name for name in case.get("folders", [])] or [folder] * len(specs)
    placed = zip(specs, places, strict=True)
    traces = [dataclasses.replace(trace_from(spec), path=place / "built.json") for spec, place in placed]
    found = analyze(TraceSet(tuple(traces)), selection=selection).outcomes
    return [list(of_trace) for of_trace in found if of_trace]
