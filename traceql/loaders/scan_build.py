"""Compiles the event scanner: from the functions of ``kineto_scan`` to machine code for this processor.

Each entry point becomes a C function that takes the address of a block of words: the addresses and shapes of its
arrays, and its numbers. What it does not use (reference counts, exceptions, Python) is compiled out, so the machine
code needs nothing but itself and can be loaded by ``scan_code`` without numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from traceql.loaders import json_scan, kineto_scan
from traceql.loaders.kineto_scan_layout import Array, Layout, Vocabulary, Workspace
