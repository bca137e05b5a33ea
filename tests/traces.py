"""Where the tests find real traces: the bundled samples always, a folder of more where TRACEQL_EXTRA_TRACES names one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from traceql import samples
from traceql.opening import open_trace
from traceql.trace import Trace

EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES")
EXTRA_FOLDER = Path(EXTRA) if EXTRA else None


def _files(*patterns: str) -> list[Path]:
    return sorted(p for pattern in patterns for p in EXTRA_FOLDER.glob(pattern)) if EXTRA_FOLDER else []


OWN_CAPTURES = _files("torch/*.json.gz", "nsys/*.sqlite")
PUBLIC_CAPTURES = _files("public/torch/*.json.gz", "public/nsys/*.sqlite")
SAMPLES = [path for s in samples.samples().values() if (path := samples.folder() / s.file).is_file()]
REAL_TRACES = [*SAMPLES, *OWN_CAPTURES, *PUBLIC_CAPTURES]

_opened: dict[Path, Trace] = {}


def opened(path: Path) -> Trace:
    """``path`` as a Trace, opened once in a test session: traces are never changed."""
    if path not in _opened:
        trace = open_trace(path)
        assert isinstance(trace, Trace)
        _opened[path] = trace
    return _opened[path]


def sample(name: str) -> Trace:
    """A bundled capture by its name."""
    return opened(samples.path(name))


def extra(relative: str) -> Trace:
    """A capture of the extra folder; skips the test without one."""
    if EXTRA_FOLDER is None:
        pytest.skip("set TRACEQL_EXTRA_TRACES to a folder of captures")
    return opened(EXTRA_FOLDER / relative)


def truth() -> dict[str, Any]:
    """Figures of an independent count that lie beside the extra captures; skips the test without them."""
    if EXTRA_FOLDER is None or not (EXTRA_FOLDER / "truth.json").exists():
        pytest.skip("set TRACEQL_EXTRA_TRACES to a folder with truth.json")
    figures: dict[str, Any] = json.loads((EXTRA_FOLDER / "truth.json").read_text())
    return figures
