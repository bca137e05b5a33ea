"""Loops compiled by numba, their machine code kept from one process to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import config

from traceql.cache import user_folder


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on first use, without Python's lock.

    The machine code lies in the user's cache folder unless NUMBA_CACHE_DIR says otherwise. Numba's own choice is beside
    the source, where it outlives an uninstall: Python then takes the folder that is left for the package itself.
    """
    settings: Any = config
    chosen = settings.CACHE_DIR
    settings.CACHE_DIR = chosen or str(user_folder() / "numba")  # read once, when the function is decorated
    try:
        return njit(cache=True, nogil=True)(function)
    finally:
        settings.CACHE_DIR = chosen
