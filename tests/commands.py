"""Run the command line in this process, as a shell would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from traceql.cli.main import main


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def traceql(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ran:
    """``traceql`` with these arguments in the working directory."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr("sys.argv", ["traceql", *map(str, arguments)])
        main()
    out, err = capsys.readouterr()
    return Ran(int(exit_.value.code or 0), out, err)
