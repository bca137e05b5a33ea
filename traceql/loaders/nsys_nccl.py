"""NCCL's own NVTX ranges in Nsight Systems exports: message size and communicator of each call, ranks of processes.

NCCL describes the payload of its ranges (NVTX_PAYLOAD_SCHEMA_ENTRIES); the values lie in NVTX_EVENTS.binaryData, behind
a header of 32 bytes that holds the schema's id at byte 8 and the payload's size at byte 16, little-endian.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql import schema
from traceql.loaders.nsys_export import Export, is_time, pid, tid

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER_BYTES, _SCHEMA_AT, _SIZE_AT = 32, 8, 16
_WIDTHS = {5: 4, 6: 4, 15: 4, 16: 4, 7: 8, 8: 8, 9: 8, 10: 8, 17: 8, 18: 8, 22: 8}
"""NVTX_PAYLOAD_ENTRY_TYPE_* of integers (int, int32, long, int64, size and their unsigned forms) → bytes."""
_FIELDS = {
    "communicator": r"(?i)communicator ID", "bytes": r"(?i)message size", "world_size": r"(?i)no\. of ranks",
    "rank": r"(?i)^rank$",
}  # fmt: skip
"""What to read → the entry's name in NCCL's schemas."""
_SCHEMA = {"row": pl.Int64, **dict.fromkeys(_FIELDS, pl.Int64)}


def payloads(export: Export) -> pl.DataFrame | None:
    """NCCL's ranges with what their payloads state (the columns of ``_FIELDS``); None where ranges carry no payload."""
    fields = _fields(export)
    if not fields or "binaryData" not in export.tables.get("NVTX_EVENTS", ()):
        return None
    events = export.read("NVTX_EVENTS", "start end globalTid textId", "text", blobs="binaryData")
    held = events.filter(pl.col("binaryData").bin.size() > _HEADER_BYTES).with_row_index("row")
    values = _values(held["binaryData"].to_list(), fields)
    return held.with_columns(pl.col("row").cast(pl.Int64)).join(values, on="row", how="inner")


def communicators(calls: pl.DataFrame | None) -> pl.DataFrame:
    """pid, rank of the process in its largest communicator, as ranges that begin and end communicators state them."""
    if calls is None:
        return pl.DataFrame(schema={"pid": pl.Int64, "rank": pl.Int64})
    stated = calls.select(pid("globalTid"), "world_size", "rank").drop_nulls().filter(pl.col("rank") >= 0)
    return stated.filter(pl.col("world_size") == pl.col("world_size").max().over("pid")).select("pid", "rank").unique()


def collective_calls(export: Export, calls: pl.DataFrame | None) -> pl.DataFrame:
    """NCCL calls with a message size, as rows of ``collective_calls``; none where ranges carry no payload."""
    if calls is None:
        return schema.TABLES["collective_calls"].empty()
    group = pl.format("communicator {}", "communicator")
    sizes = calls.drop_nulls("world_size").unique("communicator").select("communicator", ranks="world_size")
    timed = calls.filter(
        pl.col("bytes").is_not_null(), is_time("start"), is_time("end"), pl.col("end") >= pl.col("start")
    )
    return timed.join(sizes, on="communicator", how="left", maintain_order="left").select(
        pl.col("start").alias("start_ns"),
        (pl.col("end") - pl.col("start")).alias("dur_ns"),
        pl.lit("nvtx").alias("side"),
        pl.coalesce("text", export.string("textId")).alias("name"),
        pid("globalTid"),
        tid("globalTid"),
        "bytes",
        group.alias("group"),
        pl.col("ranks").alias("world_size"),
    )


def _fields(export: Export) -> dict[int, dict[str, tuple[int, int]]]:
    """Schema id → field → (offset in the payload, bytes)."""
    entries = export.read("NVTX_PAYLOAD_SCHEMA_ENTRIES", "schemaId type offset", "name")
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for field, pattern in _FIELDS.items():
        named = entries.filter(pl.col("name").str.contains(pattern))
        for schema_id, kind, offset in named.select("schemaId", "type", pl.col("offset").fill_null(0)).unique().rows():
            if schema_id is not None and kind in _WIDTHS:
                found.setdefault(schema_id, {})[field] = (offset, _WIDTHS[kind])
    return found


def _values(blobs: list[bytes], fields: dict[int, dict[str, tuple[int, int]]]) -> pl.DataFrame:
    """row and one column a field; rows whose payload is not as its schema says are left out."""
    by_size: dict[int, list[int]] = {}
    for row, blob in enumerate(blobs):
        by_size.setdefault(len(blob), []).append(row)
    parts = [pl.DataFrame(schema=_SCHEMA)]
    for size, rows in by_size.items():
        table = np.frombuffer(b"".join(blobs[row] for row in rows), np.uint8).reshape(len(rows), size)
        stated = _number(table, _SIZE_AT, 8) + _HEADER_BYTES
        schemas = np.where(stated == size, _number(table, _SCHEMA_AT, 4), -1)
        for schema_id in np.unique(schemas):
            mine = schemas == schema_id
            columns = {
                field: _number(table[mine], _HEADER_BYTES + offset, width)
                for field, (offset, width) in fields.get(int(schema_id), {}).items()
                if 0 <= offset <= size - _HEADER_BYTES - width
            }
            if columns:
                part = pl.DataFrame({"row": np.array(rows)[mine], **columns})
                parts.append(
                    part.select(
                        pl.col(name).cast(pl.Int64) if name in part.columns else pl.lit(None, pl.Int64).alias(name)
                        for name in _SCHEMA
                    )
                )
    return pl.concat(parts)


def _number(table: NDArray[np.uint8], at: int, width: int) -> NDArray[np.int64]:
    """The little-endian integers at one place of every row."""
    column = np.ascontiguousarray(table[:, at : at + width])
    return column.view(f"<i{width}").ravel().astype(np.int64)
