"""A run directory: written beside its place, renamed when whole, and `runs/latest` points at the newest."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from . import manifest
from .manifest import Manifest
from .problems import CollectError

RUNS = Path("runs")
LATEST = "latest"


class RunDirectory:
    """A run being recorded. ``path`` is where it is written, ``final`` where it will be."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.absolute().with_name(f".{final.name}.partial")

    def open(self, *, resume: bool = False) -> Manifest | None:
        """Make the folder; with ``resume`` take up what an earlier attempt left and return its manifest.

        CollectError when the place is taken by a run (and not resumed) or by anything else.
        """
        earlier = self.earlier()
        if self.final.exists() and earlier is None:
            raise CollectError(f"{self.final}: exists and holds no run; give another place with -o")
        if (self.final.exists() or self.path.exists()) and not resume:
            raise CollectError(
                f"{self.final}: a run is there; give another place with -o, or go on with it with --resume"
            )
        try:
            self.final.parent.mkdir(parents=True, exist_ok=True)
            if self.final.exists():
                self.final.rename(self.path)
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise CollectError(
                f"{self.final}: cannot be written ({error.strerror or error}); give another place with -o"
            ) from error
        return earlier if resume else None

    def stage_folder(self, name: str) -> Path:
        """An empty folder for one stage."""
        folder = self.path / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        return folder

    def save(self, record: Manifest) -> None:
        """Write the manifest so far, so that a killed run says how far it came."""
        manifest.write(self.path, record)

    def finish(self, record: Manifest) -> Path:
        """Write the manifest, rename the folder to its place and point `latest` at it if it holds a trace."""
        self.save(record)
        self.path.rename(self.final)
        if record.traces():
            link_latest(self.final)
        return self.final

    def earlier(self) -> Manifest | None:
        """The manifest of a run that is already there, whole or not."""
        for folder in (self.final, self.path):
            if (folder / manifest.NAME).exists():
                with suppress(Exception):
                    return manifest.read(folder)
        return None


def default_run(what: str, runs: Path = RUNS) -> Path:
    """A place for a new run beneath ``runs`` that nothing holds yet."""
    name = default_name(what)
    taken = {p.name.removeprefix(".").removesuffix(".partial") for p in runs.glob("*")} if runs.is_dir() else set()
    return runs / next(n for n in (name, *(f"{name}-{i}" for i in range(2, 1000))) if n not in taken)


def default_name(what: str, now: datetime | None = None) -> str:
    """A name that sorts by time: 20260131-141500-sglang-bs64."""
    moment = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    return f"{moment}-{re.sub(r'[^A-Za-z0-9._-]+', '-', what).strip('-')}"


def link_latest(run: Path, runs: Path = RUNS) -> None:
    """Point ``runs/latest`` at a run; for one elsewhere only if ``runs`` is there. A real folder is left alone."""
    inside = run.resolve().is_relative_to(runs.resolve())
    link = runs / LATEST
    if not (inside or runs.is_dir()) or (link.exists() and not link.is_symlink()):
        return
    temporary = runs / f".{LATEST}.{os.getpid()}"
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(run.resolve(), runs.resolve()), target_is_directory=True)
        temporary.replace(link)
