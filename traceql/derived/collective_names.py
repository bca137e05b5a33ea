"""What a communication kernel's name, or a framework's word for the call, says of the collective."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

_OPS = {
    "reduce_scatter": r"reduce_?scatter",
    "all_reduce": r"all_?reduce|cross_device_reduce|one_?shot|two_?shot|multimem_reduce",
    "all_gather": r"all_?gather",
    "dispatch": r"dispatch",
    "combine": r"combine",
    "all_to_all": r"all_?to_?all|a2a",
    "broadcast": r"broadcast",
    "send_recv": r"send_?recv|(?:^|[^a-z])(?:nccl)?(?:send|recv|put|get)\b",
    "barrier": r"barrier",
    "reduce": r"(?:^|[^a-z])(?:nccl)?reduce(?:$|[^a-z])",
}
"""Operation → lower-case pattern, in the order they are tried."""

_LIBRARIES = {
    "deepep": r"deep_?ep::|intranode::|internode::|internode_ll::",
    "pplx": r"pplx::",
    "mscclpp": r"mscclpp",
    "quick reduce": r"quick_?reduce",
    "multimem": r"multimem",
    "custom all-reduce": r"cross_device_reduce|all_reduce_(?:one|two)_shot(?:_push)?_kernel",
    "nvshmem": r"nvshmem",
    "userbuffers": r"userbuffers",
    "fused all-reduce": r"one_?shot|two_?shot|lamport|allreduce_fusion",
    "rccl": r"rccl",
    "nccl": r"nccl",
}

_DTYPES = {
    "bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64", "u8": "uint8", "i8": "int8",
    "u32": "uint32", "i32": "int32", "u64": "uint64", "i64": "int64", "f8e4m3": "fp8_e4m3", "f8e5m2": "fp8_e5m2",
}  # fmt: skip
"""NCCL's abbreviations in kernel names → names ``dtypes`` knows."""

_CUSTOM = r"(?:cross_device_reduce_\w+?|all_reduce_(?:one|two)_shot(?:_push)?_kernel)<"
"""Custom all-reduces that have their element type and their ranks as template arguments: vLLM's and SGLang's first ones,
and SGLang's later ones (``all_reduce_one_shot_push_kernel<__nv_bfloat16, 2u, true>``)."""

BUS_FACTORS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "all_reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all_gather": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter": lambda ranks: (ranks - 1) / ranks,
    "all_to_all": lambda ranks: (ranks - 1) / ranks,
    "broadcast": lambda ranks: pl.lit(1.0),
    "reduce": lambda ranks: pl.lit(1.0),
    "send_recv": lambda ranks: pl.lit(1.0),
}
"""Bus over algorithm bandwidth by operation and number of ranks: NCCL-tests, doc/PERFORMANCE.md."""


def op(text: pl.Expr) -> pl.Expr:
    """The operation a kernel's name or a call's name tells; null when neither does."""
    lower = text.str.to_lowercase()
    return pl.coalesce(pl.when(lower.str.contains(pattern)).then(pl.lit(name)) for name, pattern in _OPS.items())


def library(name: pl.Expr, *, on_amd: bool) -> pl.Expr:
    """Who wrote the kernel; RCCL's kernels are called as NCCL's on AMD GPUs."""
    lower = name.str.to_lowercase()
    found = pl.coalesce(
        pl.when(lower.str.contains(pattern)).then(pl.lit(library)) for library, pattern in _LIBRARIES.items()
    )
    return found.replace({"nccl": "rccl"}) if on_amd else found


def algorithm(name: pl.Expr) -> pl.Expr:
    """``ring``, ``tree``, ``nvls`` … as NCCL spells it in its kernels' names; the stage count of custom all-reduces."""
    nccl = name.str.extract(r"_(RING|TREE|COLLNET_DIRECT|COLLNET_CHAIN|NVLS_TREE|NVLS|PAT)_(?:LL|SIMPLE)")
    other = name.str.to_lowercase().str.extract(r"(1stage|2stage|one_?shot|two_?shot)").str.replace("_", "")
    return pl.coalesce(nccl.str.to_lowercase(), other)


def protocol(name: pl.Expr) -> pl.Expr:
    """NCCL's protocol: ``ll``, ``ll128`` or ``simple``."""
    return name.str.extract(r"_(LL128|LL|SIMPLE)(?:\b|_|$)").str.to_lowercase()


def dtype(name: pl.Expr) -> pl.Expr:
    """Element type from NCCL's abbreviation (``_Sum_bf16_RING``) or a custom all-reduce's template argument."""
    nccl = name.str.extract(r"_(?:Sum|Prod|MinMax|Min|Max|PreMulSum|SumPostDiv|Avg)_(\w+?)(?:_[A-Z]|\(|$)")
    template = name.str.extract(_CUSTOM + r"(?:__)?(?:nv_|hip_)?(\w+)")
    return pl.coalesce(nccl.replace_strict(_DTYPES, default=None, return_dtype=pl.String), template)


def world_size(name: pl.Expr) -> pl.Expr:
    """Ranks, where they are a template argument of a custom all-reduce."""
    return name.str.extract(_CUSTOM + r"[^,>]+, *(?:\([^)]*\))?(\d+)").cast(pl.Int64)


def bus_factor(op_column: str, ranks_column: str) -> pl.Expr:
    """Bus over algorithm bandwidth; null for an operation without a formula or an unknown number of ranks."""
    ranks = pl.col(ranks_column).cast(pl.Float64)
    return pl.coalesce(
        pl.when((pl.col(op_column) == name) & (ranks > 1)).then(factor(ranks)) for name, factor in BUS_FACTORS.items()
    )
