"""Where the trace itself marks a step on the host: SGLang, vLLM and torch.profiler ranges."""

from __future__ import annotations

import polars as pl

from traceql.trace import Trace

_SGLANG = r"^step\[(?<mode>[A-Z_]+)(?: bs=(?<batch>\d+))?(?: toks=(?<tokens>\d+))?"
_EXECUTE = r"^execute_"
PROFILER_STEP = r"^ProfilerStep#\d+$"

_ENGINE_MARKS = (("step mark", r"^step\["), ("execute mark", _EXECUTE))
"""found_by → pattern, in order of preference where both kinds nest."""

_SGLANG_KIND = {
    "DECODE": "decode", "EXTEND": "prefill", "PREFILL": "prefill", "SPLIT_PREFILL": "prefill", "MIXED": "mixed",
    "TARGET_VERIFY": "verify", "VERIFY": "verify", "DRAFT_EXTEND": "draft", "DRAFT_EXTEND_V2": "draft", "DRAFT": "draft",
    "IDLE": "other", "DLLM_EXTEND": "other",
}  # fmt: skip
"""SGLang's ForwardMode → kind."""

MARK_SCHEMA = pl.Schema(
    {
        "name": pl.String(), "start_ns": pl.Int64(), "end_ns": pl.Int64(), "pid": pl.Int64(), "tid": pl.Int64(),
        "kind": pl.String(), "batch_size": pl.Int64(), "tokens": pl.Int64(), "found_by": pl.String(),
    }
)  # fmt: skip


def engine_marks(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """What a serving engine marks: SGLang's ``step[…]``, else vLLM's ``execute_…``; outermost only, as MARK_SCHEMA.

    Of one process with ``pid``, of all without.
    """
    for found_by, pattern in _ENGINE_MARKS:
        marks = _matching(trace, pid, found_by, pattern)
        if not marks.is_empty():
            return marks
    return pl.DataFrame(schema=MARK_SCHEMA)


def profiler_steps(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """torch.profiler's own ``ProfilerStep#N`` ranges, as MARK_SCHEMA."""
    return _matching(trace, pid, "profiler_step", PROFILER_STEP)


def ranges_on_gpu(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """The same marks as the profiler drew them on the GPU, for traces without a host side; as MARK_SCHEMA.

    A step has a range on every stream it used: those that overlap are one. Of several devices the first counts.
    """
    host = any(not trace.loaded[table].is_empty() for table in ("runtime_calls", "cpu_ops", "python_calls"))
    ranges = trace.loaded["annotations"]
    drawn = ranges.filter((pl.col("side") == "gpu") & (pl.col("dur_ns") > 0))
    if host or (ranges["side"] == "cpu").any() or drawn.is_empty():
        return pl.DataFrame(schema=MARK_SCHEMA)
    own = drawn.filter(pl.col("device").eq_missing(drawn["device"].min()))
    for found_by, pattern in (*_ENGINE_MARKS, ("profiler_step", PROFILER_STEP)):
        marks = own.filter(pl.col("name").str.contains(pattern))
        if not marks.is_empty():
            return _described(_outermost(_over_streams(marks)), found_by)
    return pl.DataFrame(schema=MARK_SCHEMA)


def _over_streams(ranges: pl.DataFrame) -> pl.DataFrame:
    """Overlapping ranges of one name as one, from the first start to the last end."""
    end = pl.col("start_ns") + pl.col("dur_ns")
    new = (pl.col("start_ns") >= end.cum_max().shift(1)).fill_null(True).cum_sum()
    return (
        ranges.sort("start_ns", maintain_order=True)
        .with_columns(end_ns=end, step=new.over("name"))
        .group_by("name", "step", maintain_order=True)
        .agg(pl.col("pid", "tid", "start_ns").first(), pl.col("end_ns").max())
        .with_columns(dur_ns=pl.col("end_ns") - pl.col("start_ns"))
    )


def host_ranges(trace: Trace, pid: int | None) -> pl.DataFrame:
    """Named ranges of the host that last, of one process with ``pid``."""
    own = pl.lit(True) if pid is None else pl.col("pid") == pid
    return trace.loaded["annotations"].filter((pl.col("side") == "cpu") & (pl.col("dur_ns") > 0) & own)


def _matching(trace: Trace, pid: int | None, found_by: str, pattern: str) -> pl.DataFrame:
    return _described(_outermost(host_ranges(trace, pid).filter(pl.col("name").str.contains(pattern))), found_by)


def _outermost(marks: pl.DataFrame) -> pl.DataFrame:
    """Marks not inside another of the same level on their thread."""
    end = pl.col("start_ns") + pl.col("dur_ns")
    reach = pl.col("end_ns").cum_max().shift(1).over("pid", "tid")
    return (
        marks.with_columns(end_ns=end)
        .sort("start_ns", pl.col("end_ns") * -1, maintain_order=True)
        .filter((pl.col("end_ns") > reach) | reach.is_null())
    )


def _described(marks: pl.DataFrame, found_by: str) -> pl.DataFrame:
    name = pl.col("name")
    sglang = name.str.extract_groups(_SGLANG)
    mode = sglang.struct.field("mode").replace_strict(_SGLANG_KIND, default=None, return_dtype=pl.String)
    batch, tokens = (sglang.struct.field(f).cast(pl.Int64, strict=False) for f in ("batch", "tokens"))
    # vLLM: execute_8192_context_9(sq8155…)_generation_37(sq37…); the counts are requests, the first number tokens
    context, generation = (
        name.str.extract(rf"_{f}_(\d+)").cast(pl.Int64, strict=False) for f in ("context", "generation")
    )
    scheduled = name.str.extract(r"^execute_(\d+)_").cast(pl.Int64, strict=False)
    is_vllm = name.str.contains(_EXECUTE) & context.is_not_null() & generation.is_not_null()
    vllm_kind = (
        pl.when(context == 0)
        .then(pl.lit("decode"))
        .when(generation == 0)
        .then(pl.lit("prefill"))
        .otherwise(pl.lit("mixed"))
    )
    batch_size = pl.when(is_vllm).then(context + generation).otherwise(batch)
    return marks.select(
        "name", "start_ns", "end_ns", "pid", "tid",
        pl.when(is_vllm).then(vllm_kind).when(name.str.contains(r"^step\[")).then(mode.fill_null("other")).alias("kind"),
        batch_size.alias("batch_size"),
        # a decode step computes one token a request
        pl.when(is_vllm).then(scheduled).otherwise(
            pl.coalesce(tokens, pl.when(mode == "decode").then(batch))
        ).alias("tokens"),
        pl.lit(found_by).alias("found_by"),
    )  # fmt: skip
