"""NCCL's NVTX payloads: size and communicator of each call reach the collective they launched."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import pytest

import traceql as tq

_COMMUNICATOR = 0xA1B2C3D4E5F60718
_INIT, _COLLECTIVE = 16777218, 16777220
_PID, _TID = 42, 43


def payload(schema: int, values: bytes) -> bytes:
    """Domain, schema, payload size and whole size, little-endian, then the values."""
    return struct.pack("<IIIIQQ", 1, 0, schema, 0, len(values), 32 + len(values)) + values


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "nccl.sqlite"
    thread = (_PID << 24) | _TID
    with sqlite3.connect(path) as db:
        db.executescript(
            """
            create table StringIds (id integer, value text);
            create table NVTX_EVENTS (start integer, end integer, eventType integer, text text, textId integer,
                globalTid integer, domainId integer, binaryData blob);
            create table NVTX_PAYLOAD_SCHEMA_ENTRIES (domainId integer, schemaId integer, idx integer, type integer,
                name text, offset integer);
            create table CUPTI_ACTIVITY_KIND_RUNTIME (start integer, end integer, globalTid integer, correlationId integer,
                nameId integer);
            create table CUPTI_ACTIVITY_KIND_KERNEL (start integer, end integer, deviceId integer, streamId integer,
                globalPid integer, correlationId integer, demangledName integer);
            insert into StringIds values (1, 'ncclAllGather'), (2, 'cudaLaunchKernelExC_v11060'),
                (3, 'ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)');
            """
        )
        entries = [
            (1, _INIT, 0, 18, "NCCL communicator ID", None), (1, _INIT, 1, 5, "No. of ranks", 8), (1, _INIT, 2, 5, "Rank", 12),
            (1, _COLLECTIVE, 0, 18, "NCCL communicator ID", None), (1, _COLLECTIVE, 1, 22, "Message size [bytes]", 8),
        ]  # fmt: skip
        db.executemany("insert into NVTX_PAYLOAD_SCHEMA_ENTRIES values (?, ?, ?, ?, ?, ?)", entries)
        init = payload(_INIT, struct.pack("<Qiii", _COMMUNICATOR, 4, 1, 0))
        gather = payload(_COLLECTIVE, struct.pack("<QQ", _COMMUNICATOR, 1_000_000))
        broken = payload(_COLLECTIVE, struct.pack("<QQ", _COMMUNICATOR, 1))[:-3]
        for start, end, name, data in [
            (0, 10, "ncclCommInitRank", init), (100, 200, None, gather), (300, 310, "ncclAllReduce", broken)
        ]:  # fmt: skip
            db.execute(
                "insert into NVTX_EVENTS values (?, ?, 59, ?, ?, ?, 1, ?)",
                (start, end, name, None if name else 1, thread, data),
            )
        db.execute("insert into CUPTI_ACTIVITY_KIND_RUNTIME values (120, 130, ?, 7, 2)", (thread,))
        db.execute("insert into CUPTI_ACTIVITY_KIND_KERNEL values (150, 10150, 0, 7, ?, 7, 3)", (_PID << 24,))
    return path


def test_message_size_and_group(export: Path) -> None:
    (row,) = tq.open(export).table("collectives").rows(named=True)
    assert row["op"] == "all_gather"
    assert row["bytes"] == 4_000_000  # NCCL states what one rank sends
    assert row["world_size"] == 4
    assert row["source"] == "nvtx"
    assert row["algorithm_gb_per_s"] == pytest.approx(400)
    assert row["bus_gb_per_s"] == pytest.approx(300)


def test_broken_payloads_are_left_out(export: Path) -> None:
    calls = tq.open(export).table("collective_calls")
    assert calls["name"].to_list() == ["ncclAllGather"]
