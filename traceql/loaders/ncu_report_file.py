"""``.ncu-rep`` reports through NVIDIA's ``ncu-report`` package: no GPU and no Nsight Compute needed."""

from __future__ import annotations

import struct
import tempfile
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from traceql.errors import UnreadableTraceError
from traceql.loaders import files
from traceql.loaders.ncu_pages import Profile, Value
from traceql.loaders.ncu_units import base_unit

MAGIC = b"NVR\x00"
_LISTS = ("group:", "breakdown:")
"""Metrics that only list the names of others."""
_PAYLOAD_SIZE = 5
"""Field of BlockHeader in extras/FileFormat/ProfilerReport.proto, which ships with Nsight Compute."""


def read(path: Path) -> tuple[list[Profile], bool]:
    """The kernels in profiling order, and whether the file's end is missing; raises UnreadableTraceError."""
    if not files.is_gzip(path):
        return _read(path, path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "report.ncu-rep"
        content = files.read(path)
        plain.write_bytes(content.data)
        profiles, truncated = _read(plain, path)
        return profiles, truncated or content.truncated


def _read(report: Path, path: Path) -> tuple[list[Profile], bool]:
    """``path`` names the file in messages; ``report`` is it, or what was unpacked from it."""
    with report.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UnreadableTraceError(
                f"{path}: not an Nsight Compute report (its first bytes are others); record it again with `ncu -o`, or give "
                "the CSV that `ncu --csv --page raw` prints"
            )
        truncated = _ends_early(file, report.stat().st_size)
    ncu_report = _package(path)
    try:
        context = ncu_report.load_report(str(report))
        actions = [_profile(action) for workloads in _items(context) for action in _items(workloads)]
    except Exception as error:  # the package raises its own types for damaged and for newer reports
        message = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableTraceError(f"{path}: ncu-report cannot read it ({message})") from error
    profiles = [profile for profile in actions if profile.name or profile.metrics]  # the cut one is empty
    if not profiles:
        what = "it is cut off before the first" if truncated else "profile again"
        raise UnreadableTraceError(f"{path}: a report without a profiled kernel; {what}")
    return profiles, truncated


def _package(path: Path) -> ModuleType:
    try:
        import ncu_report
    except (ImportError, OSError) as error:
        raise UnreadableTraceError(
            f"{path}: reading .ncu-rep needs the ncu-report package ({error}); pip install 'traceql[ncu]', "
            "or export it with ncu --import FILE --csv --page raw --print-units base"
        ) from error
    module: ModuleType = ncu_report
    return module


def _items(container: Any) -> list[Any]:
    """Ranges of a report, or actions of a range, by index: their iterators differ between versions."""
    count = container.num_ranges() if hasattr(container, "num_ranges") else container.num_actions()
    at = container.range_by_idx if hasattr(container, "range_by_idx") else container.action_by_idx
    return [at(index) for index in range(count or 0)]


def _profile(action: Any) -> Profile:
    metrics = {}
    for name in action.metric_names():
        if not name.startswith(_LISTS):
            metric = action.metric_by_name(name)
            value = metric.value()
            if value is not None and value != "":
                metrics[name] = _value(value, metric.unit())
    profile = Profile(action.name(action.NameBase_DEMANGLED) or action.name() or "", metrics)
    profile.workload = _workload(action)
    profile.context = _whole(profile, "launch__context_id")
    profile.stream = _whole(profile, "launch__stream_id")
    profile.device = _whole(profile, "launch__device_id")
    profile.grid = _dimensions(profile, "grid")
    profile.block = _dimensions(profile, "block")
    major = _whole(profile, "device__attribute_compute_capability_major")
    minor = _whole(profile, "device__attribute_compute_capability_minor")
    profile.compute_capability = None if major is None else f"{major}.{minor or 0}"
    return profile


def _value(value: float | str, unit: str) -> Value:
    factor, name = base_unit(unit)
    if isinstance(value, str):
        return Value(None, name, value)
    plain = float(value)
    return Value(plain * factor, name) if isfinite(plain) else Value(None, name, str(plain))


def _whole(profile: Profile, metric: str) -> int | None:
    value = profile.number(metric)
    return None if value is None or abs(value) >= 2.0**63 else round(value)


def _dimensions(profile: Profile, what: str) -> tuple[int, ...]:
    sizes = [_whole(profile, f"launch__{what}_dim_{axis}") for axis in "xyz"]
    return tuple(size for size in sizes if size is not None)


def _workload(action: Any) -> str | None:
    """kernel, range, cmdlist or graph, from the constants of the package."""
    kinds = {getattr(action, name): name for name in dir(action) if name.startswith("WorkloadType_")}
    name = kinds.get(action.workload_type())
    return None if name is None else name.removeprefix("WorkloadType_").lower()


def _ends_early(file: BinaryIO, size: int) -> bool:
    """Whether the file stops inside a block: the package reads such a report without a word.

    After the magic come a length and the file header, then per block a length, its header and its payload.
    """
    offset = len(MAGIC)
    payload = 0
    header_of_file = True
    while offset < size:
        file.seek(offset)
        length_bytes = file.read(4)
        if len(length_bytes) < 4:
            return True
        length: int = struct.unpack("<I", length_bytes)[0]
        if not length:
            return True  # no block begins here: the one before is damaged
        header = file.read(length)
        payload = 0 if header_of_file else _payload_size(header)
        header_of_file = False
        offset += 4 + length + payload
    return offset > size


def _payload_size(header: bytes) -> int:
    """Value of the payload-size field of a protobuf-encoded block header, 0 when absent."""
    offset = 0
    while offset < len(header):
        tag, offset = _varint(header, offset)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, offset = _varint(header, offset)
            if field == _PAYLOAD_SIZE:
                return value
        elif wire == 2:
            length, offset = _varint(header, offset)
            offset += length
        else:
            offset += 8 if wire == 1 else 4
    return 0


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while offset < len(data) and shift < 70:  # ten bytes hold 64 bits; more would be an endless number
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, offset
