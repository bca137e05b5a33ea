"""One line on the terminal that says which stage runs, for how long, and what its child last said."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO


class Progress:
    """Progress on stderr. On a terminal the line is rewritten; elsewhere each stage prints its start and its end."""

    def __init__(self, stages: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stages = stages
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and not quiet
        self._number = 0
        self._name = ""

    def start(self, name: str, what: str) -> None:
        """Begin the next stage."""
        self._number += 1
        self._name = name
        if not self._live:
            self._say(f"{self._prefix()} {what} …")

    def tick(self, elapsed_s: float, state: str, line: str) -> None:
        """Show the child's state; nothing where the output is no terminal."""
        if not self._live:
            return
        text = f"{self._prefix()} {clock(elapsed_s)}  {state:<8} {line}"
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r\x1b[2K" + "".join(c for c in text if c.isprintable())[:width])
        self._stream.flush()

    def end(self, status: str, detail: str, elapsed_s: float) -> None:
        """Finish the stage with one line that stays."""
        if self._live:
            self._stream.write("\r\x1b[2K")
        self._say(f"{self._prefix()} {clock(elapsed_s)}  {status}{': ' + detail if detail else ''}")

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._live:
            self._stream.write("\r\x1b[2K")
        self._say(text)

    def _prefix(self) -> str:
        return f"[{self._number}/{self._stages}] {self._name}"

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=self._stream, flush=True)


def clock(seconds: float) -> str:
    """12.3 → 00:12."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"
