"""Where NVIDIA's command-line profilers are when they are not on PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_PLACES = {
    "nsys": (
        "/opt/nvidia/nsight-systems*/*/bin/nsys",
        "/opt/nvidia/nsight-systems*/bin/nsys",
        "/usr/local/cuda*/bin/nsys",
        "/opt/nvidia/nsight-compute/*/host/target-linux-x64/nsys",  # Nsight Compute brings one of its own release
    ),
    "ncu": ("/opt/nvidia/nsight-compute/*/ncu", "/usr/local/cuda*/bin/ncu"),
}
"""Program → patterns of where its packages put it."""


def program(name: str) -> str | None:
    """The path of ``nsys`` or ``ncu``: the first on PATH, else the installed one that is last by name."""
    found = shutil.which(name)
    if found is not None:
        return found
    places = (path for place in _PLACES[name] for path in Path("/").glob(place.lstrip("/")))
    return max((str(path) for path in places if os.access(path, os.X_OK)), default=None)
