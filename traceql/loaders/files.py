"""Bytes of a file, through gzip where it is gzip, with what a truncated one still holds."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceql.errors import UnreadableTraceError

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
_MOST_RATIO = 200  # traces reach 12 to 60; a stream that says nothing, 1032
_SURELY_FINE_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 18  # what a damaged spot costs at most


_MOST_THREADS = 8  # of what a loader does, Python's own share keeps about one processor of eight busy


def threads() -> int:
    """Threads that read at the same time: one for each processor this process may use, within reason."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        usable = os.cpu_count() or 1
    return min(usable, _MOST_THREADS)


@dataclass(frozen=True)
class FileBytes:
    """Decompressed content; ``truncated`` when the gzip stream ended early or its checksum is missing."""

    data: bytes
    truncated: bool = False


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def head(path: Path, size: int = 4096) -> bytes:
    """The first ``size`` bytes, decompressed; fewer where the file is shorter or its gzip stream is damaged."""
    with path.open("rb") as file:
        raw = file.read(max(size, 1 << 16))
    if not raw.startswith(GZIP_MAGIC):
        return raw[:size]
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, size)
    except zlib.error:
        return b""


def read(path: Path) -> FileBytes:
    """The whole content of a plain or gzip file, decompressed; a damaged gzip gives what came before the damage."""
    try:
        if not is_gzip(path):
            return FileBytes(path.read_bytes())
        blocks = GzipBlocks(path)
        return FileBytes(b"".join(blocks), blocks.truncated)
    except OSError as error:
        raise UnreadableTraceError(f"{path}: cannot be read ({error.strerror or error})") from error


class GzipBlocks:
    """The content of a gzip file, one bounded block after the other; ``truncated`` is known after the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.truncated = False

    def __iter__(self) -> Iterator[bytes]:
        from isal import isal_zlib

        damaged: Any = isal_zlib.error
        self.truncated = False
        produced = 0
        with self.path.open("rb") as file:
            decompressor = isal_zlib.decompressobj(wbits=31)
            pending = file.read(_CHUNK_BYTES)
            while True:
                try:
                    block = decompressor.decompress(pending, _BLOCK_BYTES)
                except damaged:
                    self.truncated = True
                    return
                if block:
                    produced += len(block)
                    if produced > _SURELY_FINE_BYTES and produced > _MOST_RATIO * file.tell():
                        raise UnreadableTraceError(
                            f"{self.path}: its gzip stream expands over {_MOST_RATIO}-fold, as no trace does; "
                            "unpack it yourself if it is one"
                        )
                    yield block
                if decompressor.eof:
                    pending = decompressor.unused_data
                    pending += file.read(_CHUNK_BYTES) if len(pending) < len(GZIP_MAGIC) else b""
                    if not pending.startswith(GZIP_MAGIC):  # bytes after the last member are padding
                        return
                    decompressor = isal_zlib.decompressobj(wbits=31)
                else:
                    pending = decompressor.unconsumed_tail or file.read(_CHUNK_BYTES)
                    if not pending and not block:
                        self.truncated = True
                        return
