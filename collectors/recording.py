"""Record one run: its stages in order, its manifest as it goes, and an honest end whatever happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from traceql.errors import TraceqlError

from . import manifest as manifests
from . import stage as stages
from . import sweep
from .command import shown
from .manifest import Manifest, Stage, Status
from .problems import CollectError
from .progress import Progress, clock
from .run_directory import RunDirectory


@dataclass(frozen=True)
class Recorded:
    """A finished run."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class Limits:
    """What holds for every stage of a run."""

    timeout_s: float
    gpus: list[int] | None = None


def record(
    run: RunDirectory,
    manifest: Manifest,
    works: Sequence[stages.Work],
    progress: Progress,
    limits: Limits,
    *,
    earlier: Manifest | None = None,
) -> Recorded:
    """Do the stages that ``earlier`` did not complete. A failed stage does not stop the others; an interrupt does."""
    begin = time.monotonic()
    if earlier is not None:
        manifest.started, manifest.started_unix_ns = earlier.started, earlier.started_unix_ns
        manifest.duration_s = earlier.duration_s
        manifest.stages = [s for s in earlier.stages if s.status == "complete"]
    with _kept(run, manifest, begin):
        for work in works:
            if manifest.stage(work.name) is not None:
                progress.start(work.name, work.what)
                progress.end("kept", "complete in an earlier attempt", 0.0)
                continue
            run.save(manifest)
            stage = stages.record(work, run, progress, timeout_s=limits.timeout_s, gpus=limits.gpus)
            manifest.put(stage)
            if stage.status == "interrupted":
                break
        manifest.status = overall(manifest.stages, len(works))
        manifest.problem = _first_problem(manifest.stages)
        if manifest.throttled:
            other_warnings = [line for line in manifest.warnings if not line.startswith(_THROTTLED)]
            manifest.warnings = [*other_warnings, throttle_line(manifest)]
    final = run.finish(manifest)
    if manifest.throttled:
        progress.note(throttle_line(manifest))
    progress.note(f"{manifest.status} in {clock(manifest.duration_s)}: {final}")
    return Recorded(final, manifest)


@contextmanager
def _kept(run: RunDirectory, manifest: Manifest, begin: float) -> Iterator[None]:
    """Whatever is raised inside, the manifest says how far the run came."""
    try:
        yield
    except BaseException as error:
        manifest.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        manifest.problem = str(error) or type(error).__name__
        run.save(manifest)
        raise
    finally:
        manifest.duration_s = round(manifest.duration_s + time.monotonic() - begin, 3)


def overall(done: Sequence[Stage], planned: int) -> Status:
    """A run's status from those of its stages."""
    states = {stage.status for stage in done}
    if "interrupted" in states:
        return "interrupted"
    if states == {"complete"} and len(done) >= planned:
        return "complete"
    has_trace = any(f.kind == "trace" for stage in done for f in stage.files)
    return "partial" if has_trace or "complete" in states else "failed"


_THROTTLED = "the clocks were held down while recording"


def throttle_line(manifest: Manifest) -> str:
    """One sentence on the clocks that were held down: by what, in how many stages, on which GPUs, how far."""
    slow = [(stage.name, clocks) for stage in manifest.stages for clocks in stage.clocks if clocks.throttled]
    told = []
    for reason in sorted({reason for _, clocks in slow for reason in clocks.throttle_reasons}):
        here = [(stage, clocks) for stage, clocks in slow if reason in clocks.throttle_reasons]
        stages = sorted({stage for stage, _ in here})
        gpus = ", ".join(str(gpu) for gpu in sorted({clocks.gpu for _, clocks in here}))
        where = stages[0] if len(stages) == 1 else f"{len(stages)} of {len(manifest.stages)} stages"
        least, most = min(c.sm_mhz_min for _, c in here), max(c.sm_mhz_max for _, c in here)
        told.append(f"{reason} in {where} on GPU {gpus}, SM {least}-{most} MHz")
    return f"{_THROTTLED} ({'; '.join(told)}): latencies are slower than this GPU can be"


def new_manifest(name: str, **parts: object) -> Manifest:
    """A manifest that starts now."""
    from traceql import __version__

    now = datetime.now(UTC)
    return Manifest(
        name=name, traceql=__version__, started=now.isoformat(timespec="seconds"),
        started_unix_ns=time.time_ns(), **parts,  # type: ignore[arg-type]
    )  # fmt: skip


def _first_problem(done: Sequence[Stage]) -> str | None:
    failed = next((s for s in done if s.status in ("failed", "interrupted")), None)
    if failed is None:
        return None
    return f"{failed.name}: {failed.problem}{'; ' + failed.fix if failed.fix else ''}"


def plan_lines(work: stages.Work) -> list[str]:
    """What a stage would run, for --dry-run."""
    command = work.build(Path("RUN") / work.name)
    return [f"# {work.name}: {work.what}", shown(command)]


class SweepLog:
    """The manifest of a sweep's folder: which of its runs are done."""

    def __init__(self, root: Path, command: list[str], names: list[str], *, resume: bool) -> None:
        from traceql import __version__

        if (root / manifests.NAME).exists() and not resume:
            raise CollectError(f"{root}: a sweep is there; give another place with -o, or go on with it with --resume")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CollectError(
                f"{root}: cannot be written ({error.strerror or error}); give another place with -o"
            ) from error
        self._root = root
        self._sweep = manifests.Sweep(
            name=root.name, traceql=__version__, command=command,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            points=[manifests.Point(name=name, status=self._status(name)) for name in names],
        )  # fmt: skip
        self._save()

    def complete(self, name: str) -> bool:
        """Whether an earlier attempt recorded this run whole."""
        return self._status(name) == "complete"

    def manifest(self, name: str) -> Manifest:
        """The manifest of one of its runs."""
        return manifests.read(self._root / name)

    def put(self, name: str, status: Status) -> None:
        """Note how a run ended."""
        for point in self._sweep.points:
            if point.name == name:
                point.status = status
        self._save()

    def _status(self, name: str) -> Status:
        try:
            return manifests.read(self._root / name).status
        except TraceqlError:
            return "pending"

    def _save(self) -> None:
        self._sweep.status = sweep.overall(point.status for point in self._sweep.points)
        manifests.write(self._root, self._sweep)
