"""The compiled scanner against the strict parser: the same header, frames and problems for any file whatever."""

from __future__ import annotations

import gzip
import json
import mmap
import os
import random
from pathlib import Path
from typing import Any

import pytest
import traces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceql.errors import UnreadableTraceError
from traceql.loaders import kineto_events, kineto_fast, kineto_json
from traceql.loaders.kineto_events import KinetoFile

ANY_FILE = settings(
    max_examples=int(os.environ.get("TRACEQL_EXAMPLES", "80")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small files into many pieces, and in wrong places too."""
    monkeypatch.setattr(kineto_fast, "_PIECE_BYTES", 200)
    monkeypatch.setattr(kineto_fast, "_LOOK_AHEAD_BYTES", 400)


def strict(path: Path) -> KinetoFile | None:
    try:
        return kineto_json.parse(path)
    except UnreadableTraceError:
        return None


def difference(path: Path) -> str:
    """How the fast result differs from the strict one; "left" when the fast path leaves the file to the strict one."""
    expected, fast = strict(path), kineto_fast.parse_large(path)
    if fast is None:
        return "left"
    if expected is None:
        return "fast reads what strict refuses"
    if list(fast.header.items()) != list(expected.header.items()):
        return f"header {fast.header} instead of {expected.header}"
    if fast.problems != expected.problems:
        return f"problems {fast.problems} instead of {expected.problems}"
    for family, frame in expected.families.items():
        if fast.families[family].schema != frame.schema or not fast.families[family].equals(frame):
            return f"{family}: {fast.families[family].to_dicts()} instead of {frame.to_dicts()}"
    return ""


def check(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = difference(path)
    assert found in ("", "left"), (found, path.read_bytes())
    return found


# --- real files ----------------------------------------------------------------------------------------------------

REAL = [path for path in traces.REAL_TRACES if path.name.endswith(".json.gz")]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name[:60])
def test_real_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kineto_fast, "_PIECE_BYTES", 1 << 18)
    assert difference(path) == ""
    plain = tmp_path / "plain.json"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    assert difference(plain) == ""


@pytest.mark.parametrize("layout", ["line", "compact", "indented", "sorted keys", "bare array", "CRLF", "BOM"])
def test_layouts(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kineto_fast, "_PIECE_BYTES", 1 << 16)
    text = gzip.decompress(min(REAL, key=lambda path: path.stat().st_size).read_bytes()).decode()
    value = json.loads(text)
    contents: dict[str, str] = {
        "line": json.dumps(value),
        "compact": json.dumps(value, separators=(",", ":")),
        "indented": json.dumps(value, indent=4),
        "sorted keys": json.dumps(value, sort_keys=True),
        "bare array": json.dumps(value["traceEvents"]),
        "CRLF": text.replace("\n", "\r\n"),
        "BOM": "\ufeff" + text,
    }
    assert check(tmp_path / "t.json", contents[layout]) == ""


@pytest.mark.usefixtures("tiny_pieces")
def test_cut_short_at_many_places(tmp_path: Path) -> None:
    text = document([event(index) for index in range(12)])
    for length in range(1, len(text), 11):
        check(tmp_path / "t.json", text[:length])


def test_cut_short_where_the_mapped_pages_end(tmp_path: Path) -> None:
    """A byte read past the end would be one outside the process."""
    text = document([event(1, pid="-7", args='{"est. achieved occupancy %": 1.5, "grid": [1, 2], "device": "a-7"}')])
    for length in range(text.index("ph"), len(text)):
        padding = "x" * (mmap.PAGESIZE - length - len('"": "", '))
        check(tmp_path / "t.json", ("{" + f'"": "{padding}", ' + text[1:])[: mmap.PAGESIZE])
        assert (tmp_path / "t.json").stat().st_size == mmap.PAGESIZE


@pytest.mark.usefixtures("tiny_pieces")
def test_gzip_cut_short_at_many_places(tmp_path: Path) -> None:
    packed = gzip.compress(document([event(index) for index in range(12)]).encode())
    for length in range(2, len(packed), 7):
        check(tmp_path / "t.json.gz", packed[:length])


@pytest.mark.usefixtures("tiny_pieces")
def test_truncated_file_is_read_up_to_its_last_whole_event(tmp_path: Path) -> None:
    text = document([event(index) for index in range(100)])
    assert check(tmp_path / "t.json", text[: text.rindex("{")]) == ""
    (problem,) = kineto_fast.parse_large(tmp_path / "t.json").problems  # type: ignore[union-attr]
    assert problem.kind == "truncated"


# --- single events: what the scanner must not misread ------------------------------------------------------------------


def event(index: int = 1, **changes: str) -> str:
    """A kernel event; ``changes`` are JSON texts by key."""
    fields = {
        "ph": '"X"', "cat": '"kernel"', "name": f'"kernel {index}"', "pid": "0", "tid": "7",
        "ts": f"{4330609110219 + index}.452", "dur": "1.216",
        "args": f'{{"correlation": {index}, "device": 0, "grid": [1, 2, 3]}}',
    } | changes  # fmt: skip
    return "{" + ", ".join(f'"{key}": {value}' for key, value in fields.items()) + "}"


def document(events: list[str], before: str = '"schemaVersion": 1', after: str = '"traceName": "t"') -> str:
    return "{" + before + ', "traceEvents": [\n  ' + ",\n  ".join(events) + "\n], " + after + "}"


TIMES = [
    "0", "-0", "1.5", "-1.5", "0.0005", "1.0004999", "-0.0005", "1712195495505582.988", "1712195495505582.9885", "1e3",
    "9223372036854774.9999", "9223372036854775.807", "9223372036854775.808", "99999999999999999", "123456789012345678",
    "1.5E-3", "1e17", '"12.5"', '" 7 "', '"x"', "null", "true", "[1]", "{}", "1712195495505582.00049999999999999999",
    "0.00000000000000000000000000000000000005", "1" * 40, "01", "1.", ".5", "+1", "NaN", "Infinity", "1_0", "1e", '"\\u0031"',
]  # fmt: skip
NUMBERS = [
    "0", "-0", "7", "-7", "7.0", "7.5", "1e2", "999999999999999999", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "-9223372036854775809", "1e400", '"7"', '"stream 7"', '"-7"', '"a-7b8"', '"--7"', '""', '"x"', '"[TP01-PP00] 7"', '"[7"',
    '"[TP] 5"', '"[] 5"', '"[1234567890123456789] 5"', '"[12345678901234567890] 5"', '"[1-2-3]"', '"[\\u0031] 5"',
    '"99999999999999999999"', '"9223372036854775808"', '"٣"', '"\\u0037"', '"\\"7"', "null", "true", "false", "[1, 2]", "{}",
    '{"x": 1}', "[]", "00", "1.", "nul", "0x10",
]  # fmt: skip
TEXTS = [
    '"plain"', '""', '"a\\nb"', '"\\u0041"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\udc00x"', '"é"', '"日本"', '"\\\\"', '"\\""',
    '"\\/"', '"\\x"', '"a\tb"', '"\x7f"', "null", "1", "1.50", "true", '["a"]', '{"a": 1}', '"{\\"ph\\": \\"X\\"}"', '"ends \\"ph"',
    '"ph"', '"a, b}, {"', '"' + "long " * 40 + '"',
]  # fmt: skip
RAWS = [
    "[[64, 1], []]", "[ [64 , 1],\n[] ]", "null", '"x"', '["é", "\\n"]', '["\\u00e9"]', "1.5", "{}", '{"a": [1, {"b": []}]}', "[1 2]", "[1,]",
    "[" * 70 + "]" * 70, "true", "tru", "-", "[1e5, -0.5E+3]", "[01]", '["\\q"]', "{1: 2}", '{"a" 1}', '{"a": 1,}',
]  # fmt: skip
FLOATS = [
    "0",
    "-0",
    "-0.0",
    "0.5",
    "37.5",
    "1e1",
    "100",
    "0.1234567890123456789",
    "9007199254740993",
    "null",
    '"5"',
    "true",
    "1.",
    "[1]",
]
TRIPLES = [
    "[1, 2, 3]", "[1,2]", "[]", "[ ]", "[1, 2, 3, 4]", "[1.0, 2, 3]", '["1", 2, 3]', "[null, 2]", "null", "5", "[1,]", "[,1]", "[1 2]", "[[1]]",
    "[-1, 0, 99999999999999999999]", "{}", '"[1, 2, 3]"',
]  # fmt: skip
PHASES = ['"X"', '"M"', '"\\u0058"', "null", '"XX"', "1", '""']
CATEGORIES = [
    '"kernel"',
    '"Kernel"',
    '"cpu_op"',
    '"cuda_runtime"',
    '"Trace"',
    '"kernels"',
    '"\\u006bernel"',
    "null",
    "3",
    '"python_function"',
]
SINGLE = [
    *(("ts", value) for value in TIMES), *(("dur", value) for value in TIMES), *(("tid", value) for value in NUMBERS),
    *(("name", value) for value in TEXTS), *(("ph", value) for value in PHASES), *(("cat", value) for value in CATEGORIES),
    *(("unknown", value) for value in [*RAWS, *TEXTS, *NUMBERS]),
    *(("args", value) for value in ["null", "{}", "{ }", "[]", "1", '"x"', '{"device": 1, "device": 2}', '{"device" : 3 }', "{,}"]),
    *(("args", f'{{"device": 1, "correlation": {value}}}') for value in NUMBERS),
    *(("args", f'{{"est. achieved occupancy %": {value}}}') for value in FLOATS),
    *(("args", f'{{"block": {value}, "grid": {value}}}') for value in TRIPLES),
    *(("args", f'{{"Collective name": {value}, "dtype": {value}}}') for value in TEXTS),
    *(("args", f'{{"Input Dims": {value}}}') for value in RAWS),
    *(("args", f'{{"ph": {value}, "name": {value}}}') for value in TEXTS),
    *(("args", f'{{"a": {{"ph": {value}, "b": {{"ph": 1, "c": {{"ph": 1}}}}}}}}') for value in TEXTS),
]  # fmt: skip


@pytest.mark.usefixtures("tiny_pieces")
def test_every_odd_value(tmp_path: Path) -> None:
    together: list[str] = []
    for key, value in SINGLE:
        category = '"cpu_op"' if "Input" in value or "Collective" in value else '"kernel"'
        odd = event(2, **({"cat": category} | {key: value}))
        check(tmp_path / "t.json", document([event(1), odd], after='"x": 1e999'))
        if not is_json(odd):  # the recovery begins there, and would hide what follows
            check(tmp_path / "t.json", document([event(1), odd, event(3)]))
        else:
            together.append(odd)
    for first in range(0, len(together), 12):
        check(tmp_path / "t.json", document([event(1), *together[first : first + 12], event(3)]))


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=float.fromhex)
    except ValueError:
        return False
    return True


@pytest.mark.usefixtures("tiny_pieces")
def test_keys_that_are_spelt_or_placed_oddly(tmp_path: Path) -> None:
    for odd in [
        '{"p\\u0068": "X", "cat": "kernel", "ts": 1, "dur": 1}',
        '{"ts": 1, "dur": 1, "args": {"device": 3}, "cat": "kernel", "ph": "X", "name": "last"}',
        '{"ph": "M", "ph": "X", "cat": "cpu_op", "cat": "kernel", "ts": 5, "ts": 1, "dur": 1, "name": "a", "name": "b"}',
        '{"ph": "X", "cat": "kernel", "ts": 1, "dur": 1, "args": {"device": 1}, "args": {"stream": 2}}',
        '{"ph": "X", "cat": "kernel", "ts": 1, "dur": 1, "args": {"device": 1}, "args": null}',
        '{"ph": "X", "cat": "kernel", "ts": 1, "dur": 1, "args": {"grid": [1, 2, 3], "grid": [4]}}',
        '{"ph": "X", "cat": "kernel", "ts": 1, "dur": 1, "args": {"dev\\u0069ce": 9}}',
        '{"é": 1, "ph": "X", "cat": "kernel", "ts": 1, "dur": 1}',
        '{"": 1, "ph": "X", "cat": "kernel", "ts": 1, "dur": 1}',
        '{"ph" :\t"X"\r\n,\n"cat":"kernel","ts":1,"dur":1}',
        "{" + '"x": 0, ' * 300 + '"ph": "X", "cat": "kernel", "ts": 1, "dur": 1}',
        '{"ph": "X", "cat": "kernel", "ts": 1, "dur": 1, "args": {' + '"device": 1, ' * 300 + '"stream": 1}}',
        '{"ph": "X", "cat": "kernel", "ts": 1, "dur": 1, "list": [{"ph": "X", "name": 1}, {"name": "b"}, {"ph": 3}]}',
        "{}", "[]", "1", "null", '"x"', "{ }", '{"ph": "X"}', '{"ph": "X",}', "{'ph': 1}",
    ]:  # fmt: skip
        check(tmp_path / "t.json", document([event(1), odd, event(3)]))
        check(tmp_path / "t.json", document([odd, odd]))
        check(tmp_path / "t.json", document([event(1), odd, event(3)])[:-30])
        check(tmp_path / "t.json", "[" + ", ".join([odd, event(2)]) + "]")


@pytest.mark.usefixtures("tiny_pieces")
def test_headers(tmp_path: Path) -> None:
    events = ",".join(event(index) for index in range(5))
    for text in [
        '{"traceEvents": [%s], "traceEvents": []}', '{"traceEvents": [], "traceEvents": [%s]}', '{"traceEvents" : [%s] }  \n',
        '{"a": {"traceEvents": [%s]}, "traceEvents": [%s]}', '{"a": {"traceEvents": [1]}, "traceEvents": [%s]}', " \n[%s]\n",
        '{"a": NaN, "traceEvents": [%s]}', '{"traceEvents": [%s], "a": NaN}', '{"traceEvents": [%s]} trailing', "[%s]]", "[%s] 1",
        '{"a": "\\u00e9\\"traceEvents\\": [", "traceEvents": [%s]}', '{"traceEvents": [%s,]}', '{"traceEvents": [%s]', '{"traceEvents": [%s',
        '{"traceEvents": [%s], "a": {"b": [1, 2, {}]}, "a": 2}', '{"traceEvents": {"x": [%s]}}', '{"other": [%s]}', "[[%s]]", "%s",
        '{"traceEvents":\n\n[\n\n%s\n\n]\n\n}', '{"traceEvents": [[1], %s]}', '{"traceEvents": [%s, 5]}', "[%s, [1]]", "[]", "{}", "",
    ]:  # fmt: skip
        check(tmp_path / "t.json", text.replace("%s", events))


@pytest.mark.usefixtures("tiny_pieces")
def test_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    for key in ("name", "pid", "cat", "ph", "unknown", "ts", "args"):
        for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xe6\x97"):
            value = "@" if key != "args" else '{"Input Dims": ["@"], "x": "@"}'
            text = document([event(1), event(2, **{key: f'"{value}"' if key != "args" else value}), event(3)])
            check(tmp_path / "t.json", text.encode().replace(b"@", bad))


# --- generated files -------------------------------------------------------------------------------------------------

PLAIN = st.sampled_from(['"X"', '"kernel"', '"cpu_op"', "1", "2.5", '"name"', "null", '{"device": 1}', "[1, 2, 3]"])
ODD = st.sampled_from(sorted({value for _, value in SINGLE}))
KEYS = [
    *kineto_events.ARGUMENTS["kernel"].values(),
    *kineto_events.ARGUMENTS["op"].values(),
    "Python id",
    "bytes",
    "x",
    "name",
]


@st.composite
def events(draw: st.DrawFn) -> str:
    """An event with its keys in any order, some missing, some twice, some with values that do not belong."""
    odd = draw(st.integers(0, 3)) == 0
    times = st.one_of(st.integers(0, 10**15).map(str), st.decimals(0, 10**13, places=3).map(str))
    value = st.one_of(PLAIN, ODD) if odd else PLAIN
    numbers = st.one_of(
        st.integers().map(str), st.floats(allow_nan=odd).map(json.dumps), st.decimals(0, 2**53, places=3).map(str)
    )
    argument = st.one_of(numbers, value, st.text(max_size=40).map(json.dumps))
    arguments = draw(st.lists(st.tuples(st.sampled_from(KEYS), argument), max_size=8))
    fields = [
        ("ph", draw(st.sampled_from(PHASES if odd else ['"X"']))),
        ("cat", json.dumps(draw(st.sampled_from(list(kineto_events.FAMILY_OF_CATEGORY))))),
        ("name", draw(st.text(max_size=40).map(json.dumps))),
        ("ts", draw(numbers if odd else times)),
        ("dur", draw(numbers if odd else times)),
        ("args", "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in arguments) + "}"),
        *draw(
            st.lists(
                st.tuples(
                    st.sampled_from(["pid", "tid", "id", "x", "ph", "ts", "args"] if odd else ["pid", "tid"]), value
                ),
                max_size=3,
            )
        ),
    ]
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    space = draw(st.sampled_from(["", " ", "\n    "]))
    return "{" + f",{space}".join(f'{space}"{key}":{space}{text}' for key, text in fields) + space + "}"


@st.composite
def documents(draw: st.DrawFn) -> str:
    separator = draw(st.sampled_from([",", ", ", ",\n  ", " ,\r\n"]))
    body = "[" + separator.join(draw(st.lists(events(), min_size=1, max_size=8))) + "]"
    return draw(
        st.sampled_from(["%", '{"schemaVersion": 1, "traceEvents": %, "traceName": "t"}', '{"traceEvents":%}\n'])
    ).replace("%", body)


@pytest.mark.usefixtures("tiny_pieces")
@ANY_FILE
@given(text=documents())
def test_generated_file(text: str, tmp_path: Path) -> None:
    check(tmp_path / "t.json", text)


@pytest.mark.usefixtures("tiny_pieces")
@ANY_FILE
@given(text=documents(), data=st.data())
def test_generated_file_with_damage(text: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from(DAMAGE))
    check(tmp_path / "t.json", bytes(content)[: data.draw(st.sampled_from([len(content), len(content) // 2]))])


DAMAGE = [
    b"",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\x00",
    b"\xff",
    b"NaN",
    b" ",
    b"0",
    b".",
    b"e",
    b'{"ph":',
]


def test_random_bytes_of_a_real_file_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kineto_fast, "_PIECE_BYTES", 1 << 14)
    content = gzip.decompress(min(REAL, key=lambda path: path.stat().st_size).read_bytes())[:150_000]
    dice = random.Random(0)
    for _ in range(15):
        damaged = bytearray(content)
        for _ in range(dice.choice([1, 1, 5])):
            damaged[dice.randrange(5000, len(damaged))] = dice.choice(b'{}[]",:\\\x00\xff0.eN')
        assert check(tmp_path / "t.json", bytes(damaged)) == ""


# --- the switch between the two --------------------------------------------------------------------------------------


def test_small_files_do_not_load_the_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    path.write_text(document([event()]))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a small file")

    monkeypatch.setattr(kineto_fast, "parse_large", refuse)
    assert kineto_fast.parse(path).families["kernel"].height == 1


def test_what_is_no_trace_gets_the_message_of_the_strict_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kineto_fast, "SMALL_BYTES", 0)
    path = tmp_path / "t.json"
    path.write_text('{"nodes": [], "schema": "1"}')
    with pytest.raises(UnreadableTraceError, match="execution trace"):
        kineto_fast.parse(path)


def test_more_texts_odd_events_and_rows_than_there_is_room_for_at_first(tmp_path: Path) -> None:
    names = [event(index, name=f'"{index}"', args="{}") for index in range(3000)]
    odd = [event(index, name=f'"{index}"', pid="1.0") for index in range(3000)]
    assert check(tmp_path / "t.json", document([*names, *odd])) == ""


def test_what_follows_an_event_is_no_comma(tmp_path: Path) -> None:
    for junk in ("0", "0, ", "}", "x", "] ", ":"):
        text = document([event(1), event(2), event(3)])
        check(tmp_path / "t.json", text.replace(event(2), '{"ts": 5}' + junk)[:-40])
        check(tmp_path / "t.json", text.replace(event(2), '{"ts": 5}' + junk))
        check(tmp_path / "t.json", text.replace(event(3), '{"ts": 5}' + junk))
