"""What a CUDA or HIP API call does, told by its name."""

from __future__ import annotations

import polars as pl

_PREFIX = r"^(?:cuda|cu|hip)"
_SUFFIX = r"(?:_v\d+)?(?:_ptsz|_ptds|_spt)?$"

GRAPH_LAUNCH = _PREFIX + r"GraphLaunch" + _SUFFIX
KERNEL_LAUNCH = (
    _PREFIX
    + r"(?:Ext|Module|ExtModule|HccModule|Drv)?Launch"
    + r"(?:Cooperative)?(?:Kernel(?:ExC?|MultiDevice)?|ByPtr|Grid|GridAsync|CooperativeKernel\w*)?"
    + _SUFFIX
)
MEMCPY = _PREFIX + r"Memcpy"
MEMSET = _PREFIX + r"Memset"
SYNCHRONIZE = _PREFIX + r"(?:Stream|Device|Event|Ctx|Thread)Synchronize" + _SUFFIX
CAPTURE_BEGIN = _PREFIX + r"StreamBeginCapture"
CAPTURE_END = _PREFIX + r"StreamEndCapture"
GRAPH_INSTANTIATE = _PREFIX + r"GraphInstantiate"
ALLOCATION = (
    _PREFIX
    + r"(?:Malloc|Free|Host(?:Alloc|Malloc|Free|Register|Unregister)"
    + r"|Mem(?:Alloc|Free|Host(?:Alloc|Register|Unregister)|Create|Map|Unmap|Release|AddressReserve))"
)
STREAM_ORDERED = r"Async(?:_v\d+)?(?:_ptsz|_ptds|_spt)?$"
MODULE_LOAD = (
    _PREFIX + r"(?:Module(?:Load|GetFunction)|Library(?:Load|GetKernel)|LinkCreate|LinkComplete|KernelGetFunction)"
)


def kind(name: pl.Expr) -> pl.Expr:
    """``kernel``, ``graph``, ``memcpy`` or ``memset`` for calls that put work on the GPU, else null."""
    return (
        pl.when(name.str.contains(GRAPH_LAUNCH))
        .then(pl.lit("graph"))
        .when(name.str.contains(KERNEL_LAUNCH))
        .then(pl.lit("kernel"))
        .when(name.str.contains(MEMCPY))
        .then(pl.lit("memcpy"))
        .when(name.str.contains(MEMSET))
        .then(pl.lit("memset"))
    )
