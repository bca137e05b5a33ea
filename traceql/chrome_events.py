"""A trace's tables as events of the Chrome trace format, which Perfetto and traceql itself read.

One event a line, as JSON text; a launch and the GPU work it points at share a line. Times are on the source's own clock,
in microseconds with three decimals, so that nothing is rounded. Keys and categories are those of the PyTorch profiler.
Home directories in names become ``~``: a cut is made to be passed on.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import polars as pl

from traceql.report.names import without_home
from traceql.trace import Trace

GPU_PID = 1 << 22
"""GPUs are shown as processes of their own, numbered from here: no real process id is that large."""
FINDING_PID = GPU_PID - 1

PYTHON = "python_function"
"""The category that takes most of a trace with stacks."""


def lines(trace: Trace, windows: Iterable[tuple[int, int]]) -> pl.DataFrame:
    """Every event in one of ``windows`` (ns of the trace's time), once, in order of start.

    A slice is in when it touches the window, a flow when both its ends lie inside. Columns: category, start_ns, end_ns
    (of a flow: when the GPU work began), text.
    """
    chosen = list(windows)
    start, end = pl.col("start_ns"), pl.col("start_ns") + pl.col("dur_ns")
    touching = pl.any_horizontal((start < stop) & (end >= begin) for begin, stop in chosen)
    held = pl.any_horizontal((start >= begin) & (pl.col("first_ns") < stop) for begin, stop in chosen)
    every = [*_host(trace, touching), *_gpu(trace, touching), _flows(trace, held)]
    return pl.concat(every).sort("start_ns", "end_ns", maintain_order=True)


def tracks(trace: Trace) -> list[str]:
    """The events that name processes and threads: findings on top, then the host, then each GPU and its streams."""
    tables = ("runtime_calls", "cpu_ops", "python_calls", "annotations")
    each = [*(trace.loaded[table] for table in tables), _overheads(trace)]
    host = pl.concat([frame.select("pid", "tid").unique() for frame in each])
    threads = host.select(pl.col("pid", "tid").fill_null(0)).unique().sort("pid", "tid")
    streams = trace.table("gpu_ops").select(pl.col("device", "stream").fill_null(0)).unique().sort("device", "stream")
    names = dict(trace.loaded["devices"].select("device", "name").drop_nulls().rows())
    made = [*_process(FINDING_PID, "traceql finding", 0)]
    for pid in threads["pid"].unique(maintain_order=True):
        made += _process(pid, f"process {pid}", 1)
    made += [_named("thread_name", pid, tid, f"thread {tid}") for pid, tid in threads.rows()]
    for device in streams["device"].unique(maintain_order=True):
        made += _process(GPU_PID + device, f"GPU {device}" + (f", {names[device]}" if device in names else ""), 2)
    made += [_named("thread_name", GPU_PID + device, stream, f"stream {stream}") for device, stream in streams.rows()]
    return made


def devices(trace: Trace) -> list[dict[str, object]]:
    """The GPUs under the keys of the PyTorch profiler's ``deviceProperties``."""
    made = []
    for row in trace.loaded["devices"].rows(named=True):
        major, _, minor = (row["compute_capability"] or "").partition(".")
        known = {
            "id": row["device"], "name": row["name"], "numSms": row["sm_count"], "totalGlobalMem": row["memory_bytes"],
            "computeMajor": int(major) if major.isdigit() else None,
            "computeMinor": int(minor) if minor.isdigit() else None,
        }  # fmt: skip
        made.append({key: value for key, value in known.items() if value is not None})
    return made


def slice_text(
    trace: Trace, start_ns: int, dur_ns: int, pid: int, category: str, name: str, args: dict[str, object]
) -> str:
    """One event made by hand, in the text of ``lines``."""
    frame = pl.DataFrame({"start_ns": [start_ns], "dur_ns": [dur_ns]})
    body = pl.lit(msgspec.json.encode(args).decode()[1:-1])
    return str(_slices(trace, frame, category, pl.lit(pid), pl.lit(0), pl.lit(name), (body,))["text"][0])


# --- slices -------------------------------------------------------------------------------------------------------


def _host(trace: Trace, chosen: pl.Expr) -> list[pl.DataFrame]:
    calls, ops, frames = (trace.table(name) for name in ("runtime_calls", "cpu_ops", "python_calls"))
    ranges = trace.table("annotations").filter(pl.col("side") == "cpu")
    overheads = _overheads(trace).with_columns(name="kind")
    kinds: list[tuple[pl.DataFrame, str, tuple[pl.Expr, ...]]] = [
        (calls, "cuda_runtime", (_number("correlation", "correlation_id"),)),
        (ops, "cpu_op", (_number("External id", "external_id"), _number("Input Dims", "input_shapes"),
                         _number("Input Strides", "input_strides"), _number("Input type", "input_dtypes"))),
        (frames, PYTHON, ()),
        (ranges, "user_annotation", ()),
        (overheads, "overhead", ()),
    ]  # fmt: skip
    return [
        _slices(trace, _compact(frame.filter(chosen)), category, pl.col("pid"), pl.col("tid"), pl.col("name"), args)
        for frame, category, args in kinds
    ]


def _overheads(trace: Trace) -> pl.DataFrame:
    """Those of the profiler's own times that have a thread to stand on."""
    return trace.loaded["overheads"].filter(pl.col("tid").is_not_null())


def _compact(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with its JSON texts on one line each, as the file may not have written them; null where they are none."""
    held = [column for column in ("input_shapes", "input_strides", "input_dtypes") if column in frame.columns]
    return frame.with_columns(
        pl.col(column).replace_strict(
            {text: _on_one_line(text) for text in frame[column].drop_nulls().unique()},
            default=None,
            return_dtype=pl.String,
        )
        for column in held
    )


def _on_one_line(text: str) -> str | None:
    try:
        return msgspec.json.encode(msgspec.json.decode(text)).decode()
    except (msgspec.DecodeError, RecursionError):
        return None


def _gpu(trace: Trace, chosen: pl.Expr) -> list[pl.DataFrame]:
    place = (
        _number("device", "device"), _number("stream", "stream"), _number("correlation", "correlation_id"),
        _number("graph id", "graph_id"), _number("step", "step_id"),
    )  # fmt: skip
    kernel = (
        *place, _triple("grid"), _triple("block"), _number("registers per thread", "registers_per_thread"),
        _number("shared memory", "shared_memory_bytes"), _occupancy,
    )  # fmt: skip
    ends = pl.format(" ({} -> {})", *(pl.col(c).str.to_titlecase() for c in ("src_memory", "dst_memory")))
    copy = pl.concat_str(pl.lit("Memcpy "), pl.col("kind").fill_null(""), ends, ignore_nulls=True)
    kinds = [
        ("kernels", "kernel", pl.col("name"), kernel),
        ("memcpys", "gpu_memcpy", copy, (*place[:3], place[4], _number("bytes", "bytes"))),
        ("memsets", "gpu_memset", pl.lit("Memset (Device)"), (*place[:3], place[4], _number("bytes", "bytes"))),
        ("graph_traces", "graph_replay", pl.lit("graph replay"), place),
    ]
    pid, tid = pl.col("device").fill_null(0) + GPU_PID, pl.col("stream")
    return [
        _slices(trace, trace.table(table).filter(chosen), category, pid, tid, name, args)
        for table, category, name, args in kinds
    ]


def _slices(
    trace: Trace,
    frame: pl.DataFrame,
    category: str,
    pid: pl.Expr,
    tid: pl.Expr,
    name: pl.Expr,
    args: tuple[pl.Expr, ...],
) -> pl.DataFrame:
    """``frame`` (start_ns, dur_ns) as complete events. Times stand first in the text: no name can be taken for one."""
    named = frame.with_columns(shown=name.fill_null("?").cast(pl.String))
    distinct = named["shown"].unique()
    quoted = {text: msgspec.json.encode(without_home(text)).decode() for text in distinct}
    return named.select(
        category=pl.lit(category),
        start_ns="start_ns",
        end_ns=pl.col("start_ns") + pl.col("dur_ns"),
        text=pl.concat_str(
            pl.lit('{"ph":"X","ts":'), _microseconds(pl.col("start_ns") + trace.source_offset_ns),
            pl.lit(',"dur":'), _microseconds(pl.col("dur_ns")),
            pl.lit(',"pid":'), pid.fill_null(0), pl.lit(',"tid":'), tid.fill_null(0),
            pl.lit(f',"cat":"{category}","name":'), pl.col("shown").replace_strict(quoted, return_dtype=pl.String),
            pl.lit(',"args":{'), pl.concat_str(*args, separator=",", ignore_nulls=True) if args else pl.lit(""),
            pl.lit("}}"),
        ),
    )  # fmt: skip


def _number(key: str, column: str) -> pl.Expr:
    """``"key":value`` for a number or a text that is JSON already; null where the value is."""
    return pl.format('"{}":{}', pl.lit(key), pl.col(column))


_occupancy = pl.when(pl.col("occupancy_pct").is_finite()).then(_number("est. achieved occupancy %", "occupancy_pct"))


def _triple(what: str) -> pl.Expr:
    x, y, z = (pl.col(f"{what}_{axis}") for axis in "xyz")
    return pl.format('"{}":[{},{},{}]', pl.lit(what), x, y, z)


def _microseconds(ns: pl.Expr) -> pl.Expr:
    """Exact decimal text: a float has 53 bits, an epoch in microseconds with three decimals needs 61."""
    size = ns.abs()
    fraction = (size % 1000).cast(pl.String).str.zfill(3)
    return pl.format("{}{}.{}", pl.when(ns < 0).then(pl.lit("-")).otherwise(pl.lit("")), size // 1000, fraction)


# --- flows and names ----------------------------------------------------------------------------------------------


def _flows(trace: Trace, chosen: pl.Expr) -> pl.DataFrame:
    """Launch call → the first GPU row it put on the device (at ``first_ns``), both ends on one line."""
    first = (
        trace.table("gpu_ops")
        .sort("start_ns", maintain_order=True)
        .unique("launch_id", keep="first", maintain_order=True)
        .select("launch_id", "device", "stream", first_ns="start_ns")
    )
    calls = trace.table("launches").join(first, on="launch_id", maintain_order="left").filter(chosen)

    def end(kind: str, ns: str, pid: pl.Expr, tid: str) -> tuple[pl.Expr, ...]:
        at = _microseconds(pl.col(ns) + trace.source_offset_ns)
        return (
            pl.lit(f'{{"ph":"{kind}","ts":'), at, pl.lit(',"pid":'), pid.fill_null(0), pl.lit(',"tid":'),
            pl.col(tid).fill_null(0), pl.lit(',"cat":"ac2g","name":"launch","id":'), pl.col("launch_id"),
        )  # fmt: skip

    gpu = pl.col("device").fill_null(0) + GPU_PID
    return calls.select(
        category=pl.lit("ac2g"),
        start_ns="start_ns",
        end_ns="first_ns",
        text=pl.concat_str(
            *end("s", "start_ns", pl.col("pid"), "tid"), pl.lit("},"), *end("f", "first_ns", gpu, "stream"),
            pl.lit(',"bp":"e"}'),
        ),
    )  # fmt: skip


def _process(pid: int, name: str, order: int) -> list[str]:
    return [_named("process_name", pid, 0, name), _metadata("process_sort_index", pid, 0, {"sort_index": order})]


def _named(what: str, pid: int, tid: int, name: str) -> str:
    return _metadata(what, pid, tid, {"name": name})


def _metadata(what: str, pid: int, tid: int, args: dict[str, object]) -> str:
    return msgspec.json.encode({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}).decode()
