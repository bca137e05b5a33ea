"""What a server's log or metrics beside a trace say of the prefix cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAMES = re.compile(r"\.(?:log|prom)$|(?:log|metrics)\w*\.txt$", re.IGNORECASE)
_MOST_BYTES = 64 << 20
"""Of a log larger than this the end is read: it holds the traffic, the beginning the start-up."""

_SGLANG_PREFILL = re.compile(rb"Prefill batch.*?#new-token: (\d{1,15}), #cached-token: (\d{1,15})\b")
_SGLANG_OFF = re.compile(rb"disable_radix_cache=True")
_VLLM_RATE = re.compile(rb"[Pp]refix cache hit rate: (?:GPU: )?(\d{1,3}(?:\.\d+)?)%")
_VLLM_OFF = re.compile(rb"enable_prefix_caching=False")
_COUNTERS = re.compile(
    rb"^(sglang:(?:cached|prompt)_tokens_total|vllm:(?:gpu_)?prefix_cache_(?:hits|queries)(?:_total)?)(?:\{[^}]*\})?\s+(\d{1,15}(?:\.\d+)?(?:[eE]\+?\d{1,2})?)\b",
)
_WORTH_A_LOOK = re.compile(rb"cached-token|refix.cache|prefix_caching|radix_cache|_tokens_total")
_HITS = (b"cached", b"hits")


@dataclass(frozen=True)
class PrefixCache:
    """Prompt tokens that a server computed and those it found in its prefix cache.

    ``hit_pct`` is the share found. Token counts are None where a log gives the rate alone; ``batches`` and
    ``batches_with_hits`` where it does not list prefill batches.
    """

    source: str
    hit_pct: float
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    batches: int | None = None
    batches_with_hits: int | None = None


@dataclass(frozen=True)
class ServerLog:
    """The log beside a trace: what it says of the prefix cache, and whether the server ran without one."""

    path: Path
    cache: PrefixCache | None
    disabled: bool


def logs_beside(trace: Path) -> list[ServerLog]:
    """Logs and metrics in the folder of a trace that say anything of a prefix cache, the fullest account first."""
    found = [log for path in logs_in(trace.parent) if (log := _read(path)).cache is not None or log.disabled]
    return sorted(found, key=lambda log: -((log.cache.prompt_tokens or 0) if log.cache else 0))


def logs_in(folder: Path) -> list[Path]:
    """Files of a folder that are logs or metrics by their names, in order."""
    return sorted(p for p in folder.iterdir() if _NAMES.search(p.name) and p.is_file()) if folder.is_dir() else []


def essence(path: Path) -> bytes:
    """A log cut down to what is read from it, without the rest of each line; label sets become numbers."""
    kept: list[bytes] = []
    series: dict[bytes, int] = {}
    for line in _lines(path):
        if not _WORTH_A_LOOK.search(line):
            continue
        kept += [found[0] for off in (_SGLANG_OFF, _VLLM_OFF) if (found := off.search(line))]
        if batch := _SGLANG_PREFILL.search(line):
            kept.append(b"Prefill batch, #new-token: %s, #cached-token: %s" % batch.groups())
        elif stated := _VLLM_RATE.search(line):
            kept.append(stated[0])
        elif counter := _COUNTERS.match(line):
            number = series.setdefault(line[: counter.start(2)], len(series))
            kept.append(b'%s{series="%d"} %s' % (counter[1], number, counter[2]))
    return b"".join(line + b"\n" for line in kept)


def _read(path: Path) -> ServerLog:
    """One pass over the lines; of counters the last value of each counts, of rates the last."""
    new = cached = batches = with_hits = 0
    rate: float | None = None
    counters: dict[bytes, dict[bytes, float]] = {}
    disabled = False
    for line in _lines(path):
        if not _WORTH_A_LOOK.search(line):
            continue
        disabled = disabled or bool(_SGLANG_OFF.search(line) or _VLLM_OFF.search(line))
        if batch := _SGLANG_PREFILL.search(line):
            computed, hit = int(batch[1]), int(batch[2])
            new, cached, batches, with_hits = new + computed, cached + hit, batches + 1, with_hits + (hit > 0)
        elif stated := _VLLM_RATE.search(line):
            rate = float(stated[1])
        elif counter := _COUNTERS.match(line):
            kind = b"hits" if any(word in counter[1] for word in _HITS) else b"all"
            counters.setdefault(kind, {})[line[: counter.start(2)]] = float(counter[2])
    cache = None
    if batches:
        cache = _counted(path.name, new + cached, cached, batches, with_hits)
    elif counters.get(b"all"):
        cache = _counted(
            path.name, round(sum(counters[b"all"].values())), round(sum(counters.get(b"hits", {}).values()))
        )
    elif rate is not None:
        cache = PrefixCache(path.name, rate)
    return ServerLog(path, cache, disabled)


def _counted(
    source: str, prompt: int, cached: int, batches: int | None = None, with_hits: int | None = None
) -> PrefixCache | None:
    return PrefixCache(source, 100 * cached / prompt, prompt, cached, batches, with_hits) if prompt else None


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > _MOST_BYTES:
                file.seek(size - _MOST_BYTES)
                file.readline()
            yield from file
    except OSError:
        return
