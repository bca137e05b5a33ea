"""Many workloads from one command: their product, one run directory each, and a table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from .manifest import Manifest, Status


@dataclass(frozen=True)
class Point:
    """One workload of a sweep."""

    batch_size: int
    input_len: int
    attention_backend: str | None
    tp: int
    topology: str | None

    def name(self, varying: frozenset[str]) -> str:
        """Short and unique within the sweep: the parts that vary."""
        parts = {
            "batch_size": f"bs{self.batch_size}", "input_len": f"in{self.input_len}",
            "attention_backend": self.attention_backend or "default", "tp": f"tp{self.tp}",
            "topology": self.topology or "",
        }  # fmt: skip
        return "-".join(text for key, text in parts.items() if text and key in varying) or parts["batch_size"]


def points(
    *,
    batch_sizes: Sequence[int],
    input_lens: Sequence[int],
    backends: Sequence[str | None],
    tps: Sequence[int],
    topologies: Sequence[str | None],
) -> list[Point]:
    """The product, each point once, in the order given. One GPU has no topology."""
    found = [
        Point(batch, length, backend, tp, topology if tp > 1 else None)
        for tp, topology, backend, length, batch in product(tps, topologies, backends, input_lens, batch_sizes)
    ]
    return list(dict.fromkeys(found))


def varying(found: Sequence[Point]) -> frozenset[str]:
    """The fields in which the points differ."""
    fields = ("batch_size", "input_len", "attention_backend", "tp", "topology")
    return frozenset(name for name in fields if len({getattr(p, name) for p in found}) > 1)


def overall(states: Iterable[Status]) -> Status:
    """A sweep's status from those of its points."""
    found = set(states)
    if "interrupted" in found:
        return "interrupted"
    if "pending" in found:
        return "running"
    if found == {"complete"}:
        return "complete"
    return "failed" if found <= {"failed"} else "partial"


HEADER = ("run", "mode", "ms/step", "spread %", "tokens/s", "eager/graph", "TP efficiency %", "status")


def table(runs: Sequence[tuple[str, Manifest]]) -> list[tuple[str, ...]]:
    """One row a run and mode, after HEADER.

    eager/graph: how many times faster the graph is. TP efficiency: tokens per second and GPU over those of the smallest
    TP with the same batch, lengths, backend and mode.
    """
    rows: list[tuple[str, ...]] = []
    for name, manifest in runs:
        modes = list(dict.fromkeys(stage.mode for stage in manifest.stages))
        for mode in modes:
            latency = manifest.latency(mode)
            eager = manifest.latency("eager")
            ratio = f"{eager.median_ms / latency.median_ms:.2f}" if mode == "graph" and eager and latency else ""
            rows.append(
                (
                    name, mode or "", f"{latency.median_ms:.3f}" if latency else "–",
                    f"{latency.spread_pct:.1f}" if latency and len(latency.runs_ms) > 1 else "–",
                    f"{latency.tokens_per_s:.0f}" if latency and latency.tokens_per_s else "–", ratio,
                    _efficiency(manifest, mode, runs), manifest.status + (" (throttled)" if manifest.throttled else ""),
                )
            )  # fmt: skip
    return rows


def _efficiency(manifest: Manifest, mode: str | None, runs: Sequence[tuple[str, Manifest]]) -> str:
    if manifest.workload.tp <= 1:
        return ""
    own = manifest.latency(mode)
    base = min((m for _, m in runs if _comparable(m, manifest)), key=lambda m: m.workload.tp, default=None)
    other = base.latency(mode) if base is not None else None
    if base is None or own is None or other is None or base.workload.tp == manifest.workload.tp:
        return ""
    return f"{other.median_ms * base.workload.tp / (own.median_ms * manifest.workload.tp) * 100:.0f}"


def _comparable(one: Manifest, other: Manifest) -> bool:
    a, b = one.workload, other.workload
    return (a.model, a.batch_size, a.input_len, a.output_len, a.attention_backend) == (
        b.model, b.batch_size, b.input_len, b.output_len, b.attention_backend
    )  # fmt: skip


def lines(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The table as aligned text; columns nothing is known of are left out."""
    shown = [i for i in range(len(HEADER)) if i < 3 or any(row[i] not in ("", "–") for row in rows)]
    cells = [[HEADER[i] for i in shown], *([row[i] for i in shown] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(shown))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
