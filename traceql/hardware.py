"""GPU peaks: what a device could do, from vendor datasheets (``hardware.toml``) and the user's own file.

``lookup`` goes from what a trace says of a device to one row, or to none with the reason: a wrong peak is
worse than no peak. Rates are bytes/s and operations/s, dense.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec

from traceql.dtypes import PEAK_TYPES, dtype_class
from traceql.errors import UsageError

_GIB = 2**30
_VENDOR_WORDS = frozenset({"nvidia", "tesla", "geforce", "quadro", "amd", "instinct", "radeon", "gpu", "graphics"})
_MEMORY_REPORTED = (0.88, 1.01)
"""Usable memory over capacity as sold: ECC on GDDR takes up to 8 % (T4, A10), HBM devices show 97-100 %."""
_BANDWIDTH_TOLERANCE = 0.03
"""Clock times bus width agrees with datasheets to 1 % where tried; the two A100-80GB are 5 % apart."""
_PART_OF_DEVICE = 0.9
"""A device with fewer of the row's SMs than this is a slice of it (MIG, an MI300X partition)."""

_Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]


class _Tflops(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    fp64: _Positive | None = None
    fp32: _Positive | None = None
    tf32: _Positive | None = None
    fp16: _Positive | None = None
    bf16: _Positive | None = None
    fp8: _Positive | None = None
    int8: _Positive | None = None
    fp4: _Positive | None = None


class _Row(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One ``[[gpu]]`` of a TOML file; the file's head says what the keys mean."""

    name: str
    match: tuple[str, ...] = ()
    compute_capability: str | None = None
    sm_count: Annotated[int, msgspec.Meta(gt=0)] | None = None
    memory_gb: _Positive | None = None
    bandwidth_tb_per_s: _Positive | None = None
    l2_mb: _Positive | None = None
    nvlink_gb_per_s: _Positive | None = None
    pcie_gb_per_s: _Positive | None = None
    tflops: _Tflops = _Tflops()
    source: str | None = None
    notes: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    gpu: list[_Row]


@dataclass(frozen=True)
class Gpu:
    """Peaks of one GPU variant; None where the source does not say.

    ``memory_bytes`` is the capacity as sold, ``peak_flops`` maps ``dtypes.PEAK_TYPES`` to dense operations/s,
    ``l2_bytes`` is the last cache before DRAM, ``nvlink_bytes_per_s`` counts both directions of all links, ``pcie_bytes_per_s`` one direction.
    ``measured`` tells peaks of a benchmark from those of a datasheet.
    """

    name: str
    memory_bytes: int | None
    bandwidth_bytes_per_s: float
    peak_flops: Mapping[str, float] = field(hash=False)
    sm_count: int | None = None
    compute_capability: str | None = None
    l2_bytes: int | None = None
    nvlink_bytes_per_s: float | None = None
    pcie_bytes_per_s: float | None = None
    source: str = ""
    measured: bool = False
    notes: str | None = None

    def peak(self, dtype: str) -> float | None:
        """Dense operations/s for a torch or C++ type name (``c10::BFloat16``, ``half``), else None."""
        return self.peak_flops.get(dtype_class(dtype) or "")

    def ridge(self, dtype: str) -> float | None:
        """Intensity in FLOP/byte where the memory roof meets the compute roof of ``dtype``."""
        peak = self.peak(dtype)
        return None if peak is None else peak / self.bandwidth_bytes_per_s


@dataclass(frozen=True)
class Match:
    """Outcome of a lookup: the GPU, or None, and what a reader should know about it (empty when plain)."""

    gpu: Gpu | None
    note: str = ""


@dataclass(frozen=True)
class _Facts:
    """What a trace says of a device beside its name."""

    memory_bytes: int | None
    sm_count: int | None
    compute_capability: str | None
    bandwidth_bytes_per_s: float | None

    def agree(self, gpu: Gpu) -> bool:
        """Whether nothing known on both sides speaks against ``gpu``."""
        if self.memory_bytes and gpu.memory_bytes:
            low, high = _MEMORY_REPORTED
            if not low <= self.memory_bytes / gpu.memory_bytes <= high:
                return False
        if self.sm_count and gpu.sm_count and self.sm_count != gpu.sm_count:
            return False
        if self.compute_capability and gpu.compute_capability not in (None, self.compute_capability):
            return False
        return self.bandwidth_off(gpu) <= _BANDWIDTH_TOLERANCE

    def bandwidth_off(self, gpu: Gpu) -> float:
        """Relative difference of the stated bandwidth to the row's, 0 when the trace states none."""
        stated = self.bandwidth_bytes_per_s
        return abs(stated / gpu.bandwidth_bytes_per_s - 1) if stated else 0.0


def gpus(extra: Path | None = None) -> tuple[Gpu, ...]:
    """Every GPU of the packaged table, with those of the TOML file ``extra`` merged in; raises UsageError."""
    return tuple(gpu for gpu, _ in _table(extra))


def lookup(
    name: str | None,
    memory_bytes: int | None = None,
    sm_count: int | None = None,
    compute_capability: str | None = None,
    *,
    bandwidth_bytes_per_s: float | None = None,
    extra: Path | None = None,
) -> Match:
    """The GPU a trace describes.

    The name decides; memory, SM count, compute capability and stated bandwidth choose among the variants a
    name leaves open (``A100`` alone) or stand in for a missing name. Nothing is guessed: several candidates
    with different peaks give None, or, where the trace states a bandwidth, a ``Gpu`` that has only that.
    ``extra`` is the user's TOML file; raises UsageError when it is malformed.
    """
    facts = _Facts(memory_bytes, sm_count, compute_capability, bandwidth_bytes_per_s)
    words = _words(name or "")
    if "mig" in words:
        return _stated(name, facts, f"{name} is a MIG slice: the peaks of the whole GPU do not apply")
    table = _table(extra)
    if exact := [gpu for gpu, patterns in table if words in patterns]:
        return _among(exact, name, facts) if len(exact) > 1 else _checked(exact[0], name, facts)
    if words:
        partial = [gpu for gpu, patterns in table if any(words < p for p in patterns)]
        if not partial:
            return _stated(name, facts, f"no peaks known for {name!r}")
        return _among(partial, name, facts)
    if not (memory_bytes and sm_count):
        return _stated(name, facts, "the trace does not say which GPU it ran on")
    fitting = [gpu for gpu, _ in table if gpu.sm_count and gpu.memory_bytes and facts.agree(gpu)]
    if len(fitting) == 1:
        return Match(fitting[0], f"{fitting[0].name}, identified by memory size and SM count")
    return _among(fitting, name, facts)


def override(
    gpu: Gpu,
    bandwidth: float | None = None,
    peak: Mapping[str, float] | None = None,
    source: str = "measured",
) -> Gpu:
    """``gpu`` with measured peaks: bandwidth in bytes/s, peaks in operations/s by type name."""
    peaks = dict(gpu.peak_flops)
    for dtype, value in (peak or {}).items():
        key = dtype_class(dtype)
        if key is None:
            raise UsageError(f"{dtype!r} has no GPU peak; types that have: {', '.join(PEAK_TYPES)}")
        peaks[key] = value
    return replace(
        gpu,
        bandwidth_bytes_per_s=bandwidth or gpu.bandwidth_bytes_per_s,
        peak_flops=MappingProxyType(peaks),
        source=source,
        measured=True,
    )


def markdown_table() -> str:
    """The packaged table as docs/hardware.md shows it, ending with a newline."""
    links = ["fabric GB/s", "PCIe GB/s"]
    head = ["GPU", "GB", "TB/s", *(f"{kind} TFLOP/s" for kind in PEAK_TYPES), "SMs", "L2 MB", *links, "ridge FLOP/B"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for gpu in gpus():
        ridge = gpu.ridge("bf16") or gpu.ridge("fp16")
        cells = [
            gpu.name,
            _number(gpu.memory_bytes, _GIB),
            _number(gpu.bandwidth_bytes_per_s, 1e12),
            *(_number(gpu.peak_flops.get(kind), 1e12) for kind in PEAK_TYPES),
            _number(gpu.sm_count, 1),
            _number(gpu.l2_bytes, 2**20),
            _number(gpu.nvlink_bytes_per_s, 1e9),
            _number(gpu.pcie_bytes_per_s, 1e9),
            "–" if ridge is None else f"{ridge:.1f}",
        ]
        lines.append(" | ".join(cells))
    table = "".join(f"| {line} |\n" for line in lines)
    return table + "\nSources:\n\n" + "".join(f"- {gpu.name}: {gpu.source}{_noted(gpu)}\n" for gpu in gpus())


def _noted(gpu: Gpu) -> str:
    return f" ({gpu.notes})" if gpu.notes else ""


def _number(value: float | None, unit: float) -> str:
    return "–" if value is None else f"{value / unit:.6g}"


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9.]+", name.lower())) - _VENDOR_WORDS


def _checked(gpu: Gpu, name: str | None, facts: _Facts) -> Match:
    """A GPU whose name fits exactly, unless the device is only a part of it."""
    if facts.sm_count and gpu.sm_count and facts.sm_count < _PART_OF_DEVICE * gpu.sm_count:
        note = f"{name} with {facts.sm_count} of {gpu.sm_count} SMs is a partition of the GPU"
        return _stated(name, facts, note)
    if facts.bandwidth_off(gpu) > _BANDWIDTH_TOLERANCE:
        stated = (facts.bandwidth_bytes_per_s or 0) / 1e12
        listed = gpu.bandwidth_bytes_per_s / 1e12
        return Match(gpu, f"the trace states {stated:.3g} TB/s for {name}, the datasheet {listed:.3g} TB/s")
    return Match(gpu)


def _among(candidates: list[Gpu], name: str | None, facts: _Facts) -> Match:
    """The one of several candidates that the facts leave, or the first of several with equal peaks."""
    asked = repr(name) if name else "the unnamed GPU"
    fitting = [gpu for gpu in candidates if facts.agree(gpu)]
    names = [gpu.name for gpu in fitting or candidates]
    if not fitting:
        known = f" ({', '.join(names)})" if names else ""
        return _stated(name, facts, f"{asked} fits no known variant{known}")
    first = fitting[0]
    if len(fitting) == 1:
        return Match(first, f"{asked} taken for {first.name}, the variant that fits the trace's device")
    if all(_peaks(gpu) == _peaks(first) for gpu in fitting):
        return Match(first, f"{asked} is {' or '.join(names)}, which have the same peaks")
    return _stated(name, facts, f"{asked} may be {', '.join(names)}: none chosen")


def _peaks(gpu: Gpu) -> tuple[float, dict[str, float]]:
    return gpu.bandwidth_bytes_per_s, dict(gpu.peak_flops)


def _stated(name: str | None, facts: _Facts, note: str) -> Match:
    """No row: only the bandwidth the trace itself states, if any."""
    stated = facts.bandwidth_bytes_per_s
    remedy = "name its peaks in a hardware TOML file"
    if not stated:
        return Match(None, f"{note}; {remedy}")
    gpu = Gpu(
        name=name or "unnamed GPU",
        memory_bytes=facts.memory_bytes,
        bandwidth_bytes_per_s=stated,
        peak_flops=MappingProxyType({}),
        sm_count=facts.sm_count,
        compute_capability=facts.compute_capability,
        source="the trace",
    )
    return Match(gpu, f"{note}; bandwidth {stated / 1e12:.3g} TB/s as the trace states it, {remedy}")


_Table = tuple[tuple[Gpu, frozenset[frozenset[str]]], ...]


def _table(extra: Path | None) -> _Table:
    """The user's GPUs first: they take the device names they claim from the packaged ones."""
    if extra is None:
        return _packaged()
    own = _built(_merged(extra), str(extra))
    names = {gpu.name for gpu, _ in own}
    claimed = frozenset(pattern for _, patterns in own for pattern in patterns)
    return own + tuple((gpu, patterns - claimed) for gpu, patterns in _packaged() if gpu.name not in names)


@cache
def _packaged() -> _Table:
    return _built(_packaged_rows(), "traceql/hardware.toml")


@cache
def _packaged_rows() -> dict[str, _Row]:
    text = files("traceql").joinpath("hardware.toml").read_bytes()
    return {row.name: row for row in _decoded(text, "traceql/hardware.toml")}


def _merged(path: Path) -> dict[str, _Row]:
    """Rows of the user's file, each over the packaged row of the same name."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    packaged = _packaged_rows()
    rows = {}
    for row in _decoded(text, str(path)):
        base = packaged.get(row.name, _Row(row.name, source=str(path)))
        given = {key: getattr(row, key) for key in msgspec.to_builtins(row)}
        peaks = {**msgspec.structs.asdict(base.tflops), **_given(row.tflops)}
        source = row.source or (f"{base.source}; changed by {path}" if row.name in packaged else str(path))
        changes = {**given, "tflops": _Tflops(**peaks), "source": source}
        rows[row.name] = msgspec.structs.replace(base, **changes)
    return rows


def _given(tflops: _Tflops) -> dict[str, float]:
    return {kind: value for kind, value in msgspec.structs.asdict(tflops).items() if value is not None}


def _decoded(text: bytes, where: str) -> list[_Row]:
    try:
        return msgspec.toml.decode(text, type=_File).gpu
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = " ".join(str(error).split())
        advice = "see docs/hardware.md for its form"
        raise UsageError(f"{where}: not a hardware file ({message}); {advice}") from error


def _built(rows: Mapping[str, _Row], where: str) -> _Table:
    return tuple((_gpu(row, where), frozenset(map(_words, (row.name, *row.match)))) for row in rows.values())


def _gpu(row: _Row, where: str) -> Gpu:
    if row.bandwidth_tb_per_s is None:
        raise UsageError(f"{where}: GPU {row.name!r} has no bandwidth_tb_per_s; give it in 10^12 bytes/s")
    peaks = {kind: float(round(value * 1e12)) for kind, value in _given(row.tflops).items()}
    return Gpu(
        name=row.name,
        memory_bytes=None if row.memory_gb is None else round(row.memory_gb * _GIB),
        bandwidth_bytes_per_s=float(round(row.bandwidth_tb_per_s * 1e12)),
        peak_flops=MappingProxyType(peaks),
        sm_count=row.sm_count,
        compute_capability=row.compute_capability,
        l2_bytes=None if row.l2_mb is None else round(row.l2_mb * 2**20),
        nvlink_bytes_per_s=None if row.nvlink_gb_per_s is None else row.nvlink_gb_per_s * 1e9,
        pcie_bytes_per_s=None if row.pcie_gb_per_s is None else row.pcie_gb_per_s * 1e9,
        source=row.source or where,
        notes=row.notes,
    )
