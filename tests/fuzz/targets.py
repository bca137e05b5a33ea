"""What is run on spoiled input, and what counts as a failure.

A target may succeed or raise a TraceqlError whose text is one line that names the file. Anything else is a crash, as is a
fast reader that does not say what the strict one says, and a rule that broke on a trace that opened.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from fuzz import mutation, seeds
from traceql.errors import TraceqlError
from traceql.trace import LoadedTrace, Trace


@dataclass(frozen=True)
class Target:
    """``make(random, folder)`` writes one spoiled input and returns its path; ``check(path)`` runs traceql on it."""

    make: Callable[[Random, Path], Path]
    check: Callable[[Path], None]
    names_file: bool = True
    outcomes: dict[str, int] = field(default_factory=dict)

    def run(self, random: Random, folder: Path) -> None:
        """One execution; anything that is a crash is raised."""
        self.tried(self.make(random, folder))

    def tried(self, path: Path) -> None:
        """``check`` with the errors a user may meet taken as such when they are worded well."""
        try:
            self.check(path)
        except TraceqlError as error:
            text = str(error)
            assert "\n" not in text and len(text) < 3000, f"error is not one line: {text[:300]!r}"
            assert not self.names_file or path.name in text, f"error does not name the file: {text[:300]!r}"
            self.outcomes["refused"] = self.outcomes.get("refused", 0) + 1
        else:
            self.outcomes["read"] = self.outcomes.get("read", 0) + 1


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# --- PyTorch profiler ---------------------------------------------------------------------------------------------------


def _kineto_bytes(random: Random) -> bytes:
    if random.random() < 0.6:
        text = mutation.json_spoiled(random, _some(random, random.choice(seeds.kineto())))
        return mutation.bytes_spoiled(random, text, 2) if random.random() < 0.3 else text
    return mutation.bytes_spoiled(random, random.choice(seeds.kineto_texts()))


def _some(random: Random, document: Any) -> Any:
    """A document with a few of its events, mostly: more executions, and more of an input is spoiled."""
    events = document if isinstance(document, list) else document["traceEvents"]
    if random.random() < 0.25:
        return document
    few = random.sample(events, random.randint(1, min(5, len(events))))
    return few if isinstance(document, list) else {**document, "traceEvents": few}


def _make_kineto(random: Random, folder: Path) -> Path:
    text = _kineto_bytes(random)
    if random.random() < 0.1:
        packed = gzip.compress(text, 1, mtime=0)
        return _write(
            folder, "t.json.gz", mutation.bytes_spoiled(random, packed, 2) if random.random() < 0.7 else packed
        )
    return _write(folder, "t.json", text)


def compare_parsers(path: Path) -> None:
    """The compiled scanner gives what the strict parser gives, or leaves the file to it."""
    from traceql.loaders import kineto_fast, kineto_json

    fast = kineto_fast.parse_large(path)
    if fast is None:
        kineto_json.parse(path)
        return
    strict = kineto_json.parse(path)
    assert repr(fast.header) == repr(strict.header), f"headers differ: {fast.header} {strict.header}"
    assert fast.problems == strict.problems, f"problems differ: {fast.problems} {strict.problems}"
    assert fast.families.keys() == strict.families.keys()
    for family, frame in strict.families.items():
        assert fast.families[family].equals(frame), f"{family} differs:\n{fast.families[family]}\n{frame}"


def load_any(path: Path) -> None:
    """The loader chosen by the content, and the table contract."""
    from traceql.loaders import registry

    conform(registry.load(path))


def conform(loaded: LoadedTrace) -> Trace:
    """A Trace of what a loader returned; its tables have the contract's columns and times from 0 on."""
    trace = Trace.from_loaded(loaded)
    for name, frame in trace.loaded.items():
        if "start_ns" in frame.columns and frame.height:
            assert frame["start_ns"].null_count() == 0 and frame["start_ns"].min() >= 0, f"{name} starts before 0"  # type: ignore[operator]
            assert frame["dur_ns"].null_count() == 0 and frame["dur_ns"].min() >= 0, f"{name} lasts less than 0"  # type: ignore[operator]
    return trace


def analyze_whole(path: Path) -> None:
    """Everything a user may ask of a trace: rules, every report, tables, query."""
    import traceql as tq
    from traceql.opening import open_all

    opened = open_all([path], strict=True)
    report = tq.analyze(opened.traces[0])
    broken = [
        (outcome.code, outcome.reason, outcome.traceback) for outcome in report.rules if outcome.outcome == "error"
    ]
    assert not broken, f"rules broke: {broken}"
    json.loads(report.render("json"))
    for form in ("text", "markdown", "html"):
        text = report.render(form)
        assert "<script>alert(1)" not in text or form == "text", "unescaped name"
        assert "\x1b]0" not in text and "\x1b[2J" not in text, f"terminal escape in {form}"


# --- Nsight Systems -----------------------------------------------------------------------------------------------------


def _template(random: Random, folder: Path) -> bytes:
    """An export with all tables, or mostly with some of them."""
    every = seeds.nsys_tables()
    number = random.randrange(40)
    chosen = list(every) if number < 10 else ["StringIds", *Random(number).sample(list(every)[1:], 4)]
    path = folder / f"template{number}.sqlite"
    if not path.exists():
        seeds.write_sqlite(path, {name: every[name] for name in chosen})
    return path.read_bytes()


def _make_nsys(random: Random, folder: Path) -> Path:
    path = _write(folder, "t.sqlite", _template(random, folder))
    kind = random.random()
    if kind < 0.7:
        mutation.sqlite_spoiled(random, path)
    if kind > 0.6:
        _spoil_pages(random, path)
    return path


def _spoil_pages(random: Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(random.randint(1, 4)):
        page = random.randrange(max(1, len(content) // 4096)) * 4096
        at = min(len(content) - 1, page + random.choice((random.randrange(120), random.randrange(4096))))
        kind = random.randrange(6)
        if kind < 3:
            content[at] = random.choice((0, 1, 5, 13, 0x7F, 0x80, 0xFF, content[at] ^ 1 << random.randrange(8)))
        elif kind == 3:
            content[at : at + 64] = random.randbytes(64)
        elif kind == 4:
            content[page : page + 4096] = content[:4096] if random.random() < 0.5 else bytes(4096)
        elif random.random() < 0.4:
            del content[random.randrange(len(content)) :]
            if not content:
                content = bytearray(b"\x00")
    path.write_bytes(bytes(content))


# --- the rest -----------------------------------------------------------------------------------------------------------


def _make_ncu(random: Random, folder: Path) -> Path:
    page = random.choice(seeds.ncu_pages())
    if random.random() < 0.5:
        text = page.decode()
        cells = text.split(",")
        for _ in range(random.randint(1, 4)):
            cells[random.randrange(len(cells))] = str(random.choice(mutation.HOSTILE_VALUE))
        return _write(folder, "p.csv", ",".join(cells).encode("utf-8", "surrogatepass"))
    return _write(folder, "p.csv", mutation.bytes_spoiled(random, page))


def _spoiled_json_file(name: str, document: Callable[[], object]) -> Callable[[Random, Path], Path]:
    def make(random: Random, folder: Path) -> Path:
        if random.random() < 0.7:
            return _write(folder, name, mutation.json_spoiled(random, document()))
        return _write(folder, name, mutation.bytes_spoiled(random, json.dumps(document()).encode()))

    return make


def _read_manifest(path: Path) -> None:
    from traceql.collectors import manifest

    from traceql import run_manifest

    run_manifest.read(path.parent)
    found = manifest.read(path.parent)
    assert found.throttled in (True, False)
    found.traces()


def _read_baseline(path: Path) -> None:
    from traceql.gate import baseline

    found = baseline.read(path)
    for capture in found.captures:
        for entry in capture.findings.values():
            assert isinstance(entry.size, str)


_TOML_VALUES = [
    "1", "-1", "0", "1.5", "nan", "inf", "-inf", '""', '"x"', '"\\u0000"', "true", "[]", "{}", "[1]", '["TQL101"]', "2030-01-01", "1979-05-27T07:32:00Z",
    "9223372036854775808", '"(("', '"*"', '"../../etc/passwd"', "1e400", '"\\u001b[2J"', "'a\\'", '"a\\nb"',
]  # fmt: skip


def _spoiled_toml(name: str, text: bytes) -> Callable[[Random, Path], Path]:
    def make(random: Random, folder: Path) -> Path:
        if random.random() < 0.4:
            return _write(folder, name, mutation.bytes_spoiled(random, text))
        lines = text.decode().splitlines()
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(lines))
            key, equals, _ = lines[at].partition("=")
            kind = random.randrange(6)
            if kind < 3 and equals:
                lines[at] = f"{key}= {random.choice(_TOML_VALUES)}"
            elif kind == 3:
                del lines[at]
                lines = lines or [""]
            elif kind == 4:
                lines.insert(random.randrange(len(lines)), lines[at])
            elif equals:
                lines[at] = (
                    f"{random.choice(('x', 'rules', 'select', 'a.b', key[:-2], key + 'z'))} {equals} {random.choice(_TOML_VALUES)}"
                )
        return _write(folder, name, "\n".join(lines).encode())

    return make


def _read_configuration(path: Path) -> None:
    from traceql import config

    config.load(path)


def _read_hardware(path: Path) -> None:
    from traceql import hardware

    hardware.gpus(path)


def _read_patterns(path: Path) -> None:
    from traceql import kernel_names

    before = list(kernel_names._own)
    try:
        kernel_names.extend(path)
        kernel_names.described(
            pl.DataFrame(
                {"name": ["my_gemm_1"], "short_name": [None], "category": [None]},
                schema_overrides={"short_name": pl.String, "category": pl.String},
            )
        )
    finally:
        kernel_names._own[:] = before


def _make_log(random: Random, folder: Path) -> Path:
    return _write(folder, "server.log", mutation.bytes_spoiled(random, seeds.SERVER_LOG, 6))


def _read_log(path: Path) -> None:
    from traceql import server_logs

    server_logs.logs_beside(path.parent / "t.json")


def _make_name(random: Random, folder: Path) -> Path:
    name = random.choice(seeds.KERNEL_NAMES).encode()
    return _write(folder, "name.txt", mutation.bytes_spoiled(random, name, 6) * random.choice((1, 1, 1, 20)))


def _read_name(path: Path) -> None:
    from traceql import kernel_names

    name = path.read_bytes().decode("utf-8", "replace")
    assert isinstance(kernel_names.short_name(name), str)


# --- recorded inputs of operators ----------------------------------------------------------------------------------------

_OPS = (
    "aten::mm", "aten::bmm", "aten::addmm", "aten::linear", "aten::_scaled_mm", "vllm::cutlass_scaled_mm", "sgl::awq_gemm", "aten::copy_",
    "aten::add", "aten::embedding", "aten::gather", "aten::index_select", "aten::scaled_dot_product_attention", "aten::softmax", "aten::cat",
)  # fmt: skip
_INPUTS = [
    [[8, 64], [64, 64], []], [[8, 64], [8, 64]], [[1, 8, 1, 64], [1, 8, 90, 64], [1, 8, 90, 64]], [[[1, 2], [3, 4]], []], [[64], [8, 64], [64, 32]],
]  # fmt: skip


def _make_inputs(random: Random, folder: Path) -> Path:
    texts = [
        mutation.json_spoiled(random, random.choice(_INPUTS)).decode("utf-8", "replace"),
        mutation.json_spoiled(random, random.choice((["c10::BFloat16"] * 3, ["float", "int", "Scalar"]))).decode(
            "utf-8", "replace"
        )
        if random.random() < 0.3
        else json.dumps(["c10::BFloat16"] * 3),
        random.choice(
            (
                "[[64, 1], [1, 64], []]",
                "null",
                "",
                mutation.json_spoiled(random, [[64, 1], [0, 0]]).decode("utf-8", "replace"),
            )
        ),
    ]
    return _write(folder, "inputs.json", json.dumps([random.choice(_OPS), *texts]).encode())


def _read_inputs(path: Path) -> None:
    from traceql.derived import collectives, copies, gemm_shapes, kv_cache, op_traffic

    name, shapes, dtypes, strides = json.loads(path.read_bytes())
    pl.Series([gemm_shapes.gemm_form(name, shapes, dtypes)], dtype=gemm_shapes.FORM)
    pl.Series([op_traffic.traffic(name, shapes, dtypes, strides)], dtype=op_traffic.FORM)
    pl.Series([copies.copy_form(shapes, strides, dtypes)], dtype=copies._FORM)
    pl.Series([kv_cache._row_bytes(shapes, dtypes)], dtype=pl.Int64)
    pl.Series([collectives._first_input(shapes, dtypes)[0]], dtype=pl.Int64)


# --- cache --------------------------------------------------------------------------------------------------------------


def _make_cache(random: Random, folder: Path) -> Path:
    """A kept trace with one file of its entry spoiled."""
    from traceql import cache
    from traceql.loaders import registry

    os.environ["TRACEQL_CACHE"] = str(folder / "kept")
    path = folder / "c.json"
    if not path.exists():
        path.write_bytes(seeds.kineto_texts()[0])
    if cache.load(path) is None:
        cache.store(Trace.from_loaded(registry.load(path)))
    (entry,) = cache.entries()
    file = random.choice(sorted(entry.folder.iterdir()))
    file.write_bytes(mutation.bytes_spoiled(random, file.read_bytes(), 3))
    return path


def _read_cache(path: Path) -> None:
    """A spoiled entry is not used, or gives the very tables of the trace."""
    from traceql import cache
    from traceql.loaders import registry

    kept = cache.load(path)
    if kept is not None:
        fresh = Trace.from_loaded(registry.load(path))
        for name, frame in fresh.loaded.items():
            assert kept.loaded[name].equals(frame), f"{name} differs"


# --- SQL ----------------------------------------------------------------------------------------------------------------

SECRET = "c0ffee-secret"
_FUNCTIONS = (
    "read_csv", "read_parquet", "read_json", "read_ndjson", "read_ipc", "scan_csv", "scan_parquet", "scan_ipc", "READ_CSV",
    "Read_Json",
)  # fmt: skip
_OPEN = ("(", "(", "(", " (", "\n(", "/**/(", "--x\n(", "\t (", "(\n")
_QUOTED = (
    "{}", "{}", '"{}"', '"{}"', "`{}`", "[{}]", "'{}'", 'main."{}"', "{}.x", " {} ", "lateral {}", "table({})", 'U&"{}"', "$${}$$",
    "E'{}'",
)  # fmt: skip
_FRAMES = (
    "select * from {}", "with a as (select * from {}) select * from a", "select * from kernels, {}",
    "select * from kernels join {} on true", "select * from kernels where name in (select * from {})",
    "select (select max(a) from {}) from kernels", "select * from kernels union all select * from {}",
    "select * from (select * from (select * from {}))", "select * from kernels cross join {} as r", "from {}", "table {}",
    "select E'\\'', * from {} where 'a' = ''''", "select '--', * from {}", "select '/*', * from {} where '*/' = ''",
    "select * from kernels order by (select 1 from {})", "select * exclude (a) from {}", "select 1 /* ' */ from {} /* ' */",
    "select \"'\" from {} where \"'\" = 1", "values (1) union select * from {}", "select * from kernels; select * from {}",
    "select $$'$$, * from {} where $$'$$ = ''", "select '\\', * from {} where '\\' = ''",
)  # fmt: skip


def _make_query(random: Random, folder: Path) -> Path:
    secret = folder / "secret.csv"
    if not secret.exists():
        secret.write_text(f"a\n{SECRET}\n")
        (folder / "secret.json").write_text(json.dumps([{"a": SECRET}]))
        pl.DataFrame({"a": [SECRET]}).write_parquet(folder / "secret.parquet")
    if random.random() < 0.6:
        file = folder / random.choice(("secret.csv", "secret.csv", "secret.json", "secret.parquet"))
        quote = random.choice("'''''''\"")
        function = random.choice(_QUOTED).format(random.choice(_FUNCTIONS))
        call = f"{function}{random.choice(_OPEN)}{quote}{file}{quote})"
        source = random.choice((call, call, call, f"'{file}'", f'"{file}"', f"`{file}`"))
        text = random.choice(_FRAMES).format(source).encode()
        text = mutation.bytes_spoiled(random, text, 1) if random.random() < 0.3 else text
    else:
        text = mutation.bytes_spoiled(random, random.choice(seeds.QUERIES).replace("SECRET", str(secret)).encode())
    return _write(folder, "q.sql", text)


def _run_query(path: Path) -> None:
    """A query that runs has read no file."""
    from traceql import query

    result = query.run(Tables(), path.read_bytes().decode("utf-8", "replace"))
    assert SECRET not in str(result.rows()), "a query read a file"


class Tables:
    def table(self, name: str) -> pl.DataFrame:
        from traceql import schema

        return _KERNELS if name == "kernels" else schema.TABLES[name].empty()


_KERNELS = pl.DataFrame(
    {"name": ["k"], "dur_ns": [7], "step_id": [None]},
    schema={"name": pl.String, "dur_ns": pl.Int64, "step_id": pl.Int64},
)

TARGETS = {
    "kineto-parsers": Target(_make_kineto, compare_parsers),
    "kineto-load": Target(_make_kineto, load_any),
    "kineto-analyze": Target(_make_kineto, analyze_whole),
    "nsys-load": Target(_make_nsys, load_any),
    "nsys-analyze": Target(_make_nsys, analyze_whole),
    "ncu-load": Target(_make_ncu, load_any),
    "ncu-analyze": Target(_make_ncu, analyze_whole),
    "manifest": Target(_spoiled_json_file("manifest.json", seeds.manifest), _read_manifest),
    "baseline": Target(_spoiled_json_file("b.json", seeds.baseline), _read_baseline),
    "configuration": Target(_spoiled_toml("traceql.toml", seeds.CONFIGURATION), _read_configuration),
    "hardware": Target(_spoiled_toml("hardware.toml", seeds.HARDWARE), _read_hardware),
    "kernel-patterns": Target(_spoiled_toml("patterns.toml", seeds.PATTERNS), _read_patterns),
    "server-log": Target(_make_log, _read_log),
    "kernel-name": Target(_make_name, _read_name),
    "operator-inputs": Target(_make_inputs, _read_inputs),
    "cache": Target(_make_cache, _read_cache),
    "query": Target(_make_query, _run_query, names_file=False),
}
