"""Bytes of a file, through gzip where it is gzip, with what a truncated one still holds."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

from traceql.errors import UnreadableTraceError

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 22


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
        return _read_gzip(path)
    except OSError as error:
        raise UnreadableTraceError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_gzip(path: Path) -> FileBytes:
    from isal import isal_zlib

    parts: list[bytes] = []
    truncated = False
    with path.open("rb") as file:
        decompressor = isal_zlib.decompressobj(wbits=31)
        pending = file.read(_CHUNK_BYTES)
        while pending:
            try:
                parts.append(decompressor.decompress(pending))
            except isal_zlib.error:
                truncated = True
                break
            pending = decompressor.unused_data if decompressor.eof else b""
            if decompressor.eof and pending.startswith(GZIP_MAGIC):
                decompressor = isal_zlib.decompressobj(wbits=31)
            elif decompressor.eof:  # bytes after the last member are padding
                pending = b""
            pending = pending or (b"" if decompressor.eof else file.read(_CHUNK_BYTES))
        truncated = truncated or not decompressor.eof
    return FileBytes(b"".join(parts), truncated)
