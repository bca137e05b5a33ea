"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from traceql.errors import UsageError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; see write_bytes."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename it there; a reader never sees half a file.

    A pipe or a device (``/dev/null``, ``/dev/stdout``) is written to, never replaced.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
            return
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror or error}); give another place with -o"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror or error}); give another place with -o"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
