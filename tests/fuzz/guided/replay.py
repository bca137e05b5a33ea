"""Run what fuzzing under coverage kept once more, without it: ``NUMBA_DISABLE_JIT=1 python -m fuzz.guided.replay torch-scan``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fuzz.guided import CORPUS
from fuzz.guided.targets import TARGETS


def inputs(target: str, most: int | None = None) -> list[Path]:
    """The kept inputs of a target, ``most`` of them: the same ones every time, of every size."""
    return sorted((CORPUS / target).iterdir())[:most]


def replay(target: str, folder: Path, most: int | None = None) -> int:
    """Run them; returns how many there were. What is a crash is raised."""
    found = inputs(target, most)
    for path in found:
        try:
            TARGETS[target].run(path.read_bytes(), folder)
        except Exception as error:
            error.add_note(f"input: {target}/{path.name}")
            raise
    return len(found)


def main() -> None:
    from fuzz.guided import plain_scanner

    plain_scanner.take_over()
    for target in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(target, replay(target, Path(folder)))


if __name__ == "__main__":
    main()
