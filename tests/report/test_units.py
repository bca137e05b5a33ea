"""Units read from key names, and numbers as they are shown."""

from __future__ import annotations

import math

import pytest

from traceql.report import evidence, units


@pytest.mark.parametrize(
    ("key", "label", "unit"),
    [
        ("gap_us", "gap", "µs"),
        ("launch_gap_us_per_step", "launch gap", "µs/step"),
        ("us_per_step", "", "µs/step"),
        ("share_of_period_pct", "share of period", "%"),
        ("idle_us_each", "idle each", "µs"),
        ("achieved_tb_per_s", "achieved", "TB/s"),
        ("intensity_flop_per_byte", "intensity", "FLOP/B"),
        ("self_cpu_us_per_call", "self CPU", "µs/call"),
        ("cpu_gpu_ratio", "CPU GPU ratio", "×"),
        ("calls_per_step", "calls per step", ""),
        ("robust_z_score", "robust z score", ""),
        ("bytes", "", "B"),
        ("kernel", "kernel", ""),
    ],
)
def test_meaning(key: str, label: str, unit: str) -> None:
    means = units.meaning(key)
    assert (means.label, means.full_unit()) == (label, unit)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0, "0"), (27026.073, "27,000"), (33.412, "33.4"), (9.996, "10.0"), (99.96, "100"), (1.0, "1"),
        (0.68626, "0.686"), (0.04567, "0.0457"), (1e-9, "1.0e-09"), (-12.345, "-12.3"), (1234567.0, "1,230,000"),
        (math.nan, "–"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert units.number(value) == text


def test_one_unit_a_column() -> None:
    header, cells = evidence.column("us_per_step", [23506.38, 686.26, None])
    assert header.header == "ms/step"
    assert [cell.text for cell in cells] == ["23.5", "0.686", "–"]
    assert cells[0].exact == "23,506.380 µs/step"


def test_counts_stay_exact() -> None:
    header, cells = evidence.column("calls", [123456, 7])
    assert header.numeric
    assert [cell.text for cell in cells] == ["123,456", "7"]


def test_quantity_picks_the_unit() -> None:
    assert units.quantity(33412385, "ns") == ("33.4", "ms")
    assert units.quantity(400, "µs", "step") == ("400", "µs/step")
    assert units.quantity(15032385536, "FLOP") == ("15.0", "GFLOP")
    assert units.quantity(0.4, "µs") == ("400", "ns")
