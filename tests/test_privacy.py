"""What captures tell of a machine and its user stays out of scrubbed copies, of reports and of the bundled samples."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fuzz import seeds
from small_traces import Decode

import traceql as tq
from traceql import samples
from traceql.errors import UsageError
from traceql.scrub import scrub
from traceql.trace import Trace

SECRETS = ("hunter2", "jdoe", "buildhost17", "API_TOKEN")
ENVIRONMENT = "PATH=/usr/bin\0API_TOKEN=hunter2\0HOME=/home/jdoe\0HOSTNAME=buildhost17"


def findings(path: Path) -> list[tuple[str, str, str]]:
    report = tq.analyze(tq.open(path))
    return [(f.code, f.fingerprint, f.message) for f in report.found]


def tables(path: Path) -> dict[str, pl.DataFrame]:
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    return {name: frame for name, frame in trace.loaded.items() if name != "metadata"}


def nsys(path: Path) -> Path:
    """An export with secrets wherever nsys puts them."""
    rows: dict[str, list[dict[str, Any]]] = dict(seeds.nsys_tables())
    rows["StringIds"] = [
        *rows["StringIds"],
        {"id": 900, "value": ENVIRONMENT},
        {"id": 901, "value": "/home/jdoe/run.py"},
        {"id": 902, "value": ENVIRONMENT},
    ]
    late = {**rows["NVTX_EVENTS"][0], "start": 200_000, "end": 200_001}
    rows["NVTX_EVENTS"] = [
        *rows["NVTX_EVENTS"],
        {**late, "textId": 902},
        {**late, "textId": None, "text": "load /home/jdoe/model"},
    ]
    rows["META_DATA_CAPTURE"] = [
        *rows["META_DATA_CAPTURE"],
        {"name": "PROCESS_1:ENVIRONMENT", "value": ENVIRONMENT},
        {"name": "COMMAND_LINE", "value": "python /home/jdoe/x.py --key hunter2"},
    ]
    rows["META_DATA_EXPORT"] = [
        *rows["META_DATA_EXPORT"],
        {"name": "EXPORT_INPUT_PATH", "value": "/home/jdoe/x.nsys-rep"},
    ]
    rows["TARGET_INFO_SYSTEM_ENV"] = [
        {"globalVid": 1, "name": "HostName", "nameEnum": 1, "value": "buildhost17"},
        {"globalVid": 1, "name": "API_TOKEN", "nameEnum": 2, "value": "hunter2"},
    ]
    rows["PROCESSES"] = [{"globalPid": 1, "pid": 1, "name": "/home/jdoe/bin/python"}]
    rows["DIAGNOSTIC_EVENT"] = [{"timestamp": 0, "severity": 2, "text": "could not open /home/jdoe/.cache/x"}]
    seeds.write_sqlite(path, rows)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "create view V as select * from TARGET_INFO_SYSTEM_ENV; create trigger T after delete on StringIds begin insert into StringIds values (903, 'hunter2'); end;"
        )
        connection.commit()
    return path


def kineto(path: Path) -> Path:
    document = json.loads(Decode().write(path.with_name("plain.json")).read_text())
    frames = [
        {
            "ph": "X",
            "cat": "python_function",
            "name": name,
            "pid": 100,
            "tid": 100,
            "ts": 1000,
            "dur": 5,
            "args": {"Python id": i},
        }
        for i, name in enumerate(
            ["/home/jdoe/serve.py(3): run", "/Users/jdoe/x.py(1): f", "C:\\Users\\jdoe\\y.py(2): g", "/root/z.py(1): h"]
        )
    ]
    header = {"traceName": '/home/jdoe/tr"ace.json', "host_name": "buildhost17", "environment": ENVIRONMENT}
    text = json.dumps({**header, **document, "traceEvents": document["traceEvents"] + frames})
    content = text.replace("/home/jdoe/serve.py", r"\/home\/jdoe\/serve.py").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def ncu_page(path: Path) -> Path:
    text = (
        seeds.ncu_pages()[0].decode().replace("127.0.0.1", "buildhost17").replace("python3", "/home/jdoe/bin/python3")
    )
    path.write_text("==PROF== Connected to process 7 (/home/jdoe/bin/python3)\n" + text)
    return path


MAKERS = {"t.sqlite": nsys, "t.json": kineto, "t.json.gz": kineto, "p.csv": ncu_page}


@pytest.mark.parametrize("name", MAKERS)
def test_a_scrubbed_copy_analyzes_to_the_same_and_tells_nothing(name: str, tmp_path: Path) -> None:
    source = MAKERS[name](tmp_path / name)
    target = tmp_path / f"copy-{name}"
    scrub(source, target)
    content = target.read_bytes()
    content = gzip.decompress(content) if name.endswith(".gz") else content
    assert [secret for secret in SECRETS if secret.encode() in content] == []
    private = re.compile("|".join(SECRETS) + "|/root|~")
    assert [f for f in findings(target) if not private.search(f[2])] == [
        f for f in findings(source) if not private.search(f[2])
    ]
    before, after = tables(source), tables(target)
    for table, frame in before.items():
        untold = [column for column in frame.columns if frame.schema[column] != pl.String]
        assert after[table].select(untold).equals(frame.select(untold)), table


@pytest.mark.parametrize("sample", ["sglang-h200-bs64-decode-eager", "nsys-h200-mini-decode-piecewise-node"])
def test_a_scrubbed_sample_has_the_same_findings(sample: str, tmp_path: Path) -> None:
    source = samples.path(sample)
    target = tmp_path / source.name
    scrub(source, target)
    assert findings(target) == findings(source)


def test_what_cannot_be_scrubbed_is_refused(tmp_path: Path) -> None:
    report = tmp_path / "r.ncu-rep"
    report.write_bytes(b"NVR\0" + bytes(99))
    with pytest.raises(UsageError, match="cannot be scrubbed"):
        scrub(report, tmp_path / "x")
    with pytest.raises(UsageError, match="another file"):
        scrub(report, report)
    broken = tmp_path / "b.sqlite"
    broken.write_bytes(nsys(tmp_path / "w.sqlite").read_bytes()[:9000])
    with pytest.raises(UsageError, match="SQLite cannot read it"):
        scrub(broken, tmp_path / "y.sqlite")
    assert not (tmp_path / "y.sqlite").exists()


@pytest.mark.parametrize("name", MAKERS)
def test_reports_show_no_environment_and_no_home(name: str, tmp_path: Path) -> None:
    report = tq.analyze(tq.open(MAKERS[name](tmp_path / name)))
    for form in ("json", "text", "markdown", "html"):
        text = report.render(form)
        for secret in ("hunter2", "buildhost17", "API_TOKEN", "/home/jdoe", "/Users/jdoe", str(tmp_path)):
            assert secret not in text, f"{secret} in {form}"


_HOMES = re.compile(rb"/home/(?!runner)[a-z]\w+|/Users/\w+|(?<![\w.])/root/")
_ENTRIES = re.compile(rb"(?:^|[\0\"\s])(?:PATH|HOME|HOSTNAME|USER|PWD|LD_LIBRARY_PATH|SSH_\w+|AWS_\w+|HF_TOKEN)=")


@pytest.mark.parametrize(
    "path",
    sorted(p for p in samples.folder().rglob("*") if p.is_file() and p.suffix in (".gz", ".sqlite", ".csv", ".json")),
    ids=lambda p: p.name,
)
def test_bundled_samples_are_scrubbed(path: Path) -> None:
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    assert _HOMES.findall(content) == []
    assert _ENTRIES.findall(content) == []
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as connection:
            found = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        assert not found & {"TARGET_INFO_SYSTEM_ENV", "PROCESSES", "ThreadNames", "TARGET_INFO_NIC_INFO"}
