"""Compiles the event scanner: from the functions of ``kineto_scan`` to machine code for this processor."""

from __future__ import annotations

from traceql.loaders import json_scan, kineto_scan
from traceql.loaders.scan_code import EXAMPLES
from traceql.machine_code_build import Entry, object_file


def build() -> bytes:
    """An object file with a C function for each entry point."""
    functions = {"scan": kineto_scan.scan, "count_phases": json_scan.count_phases}
    return object_file({name: Entry(function, EXAMPLES[name]()) for name, function in functions.items()})
