"""The configuration file: found, checked key by key, and overruled by the command line."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from commands import traceql

from traceql import config, config_file, registry
from traceql.errors import UsageError
from traceql.finding import Severity
from traceql.testing import TraceBuilder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str, name: str = "traceql.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def codes(loaded: config.Configuration) -> set[str]:
    return {rule.code for rule in loaded.selection.chosen()}


def error(text: str, name: str = "traceql.toml") -> str:
    with pytest.raises(UsageError) as raised:
        config.load(written(text, name))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_without_a_file_every_rule_runs() -> None:
    loaded = config.load()
    assert codes(loaded) == set(registry.rules())
    assert (loaded.path, loaded.named, loaded.fail_on, loaded.budgets) == (None, frozenset(), Severity.WARNING, ())


def test_every_key() -> None:
    loaded = config.load(
        written(
            """
            [tool.traceql]
            select = ["TQL1", "memory-bound-gemm"]
            extend_select = ["TQL301"]
            ignore = ["TQL107"]
            fail-on = "error"
            hardware = "gpus.toml"

            [tool.traceql.baseline]
            file = "base.json"
            tolerance-pct = 5

            [tool.traceql.rules.TQL101]
            min-gap-us = 7
            min_share_pct = 2.5
            severity = "error"

            [tool.traceql.rules.step-bubble]
            severity = "info"

            [[tool.traceql.budgets]]
            metric = "step.gpu_idle_pct"
            kind = "decode"
            max = 8

            [[tool.traceql.budgets]]
            sql = "select count(*) from kernels"
            min = 1

            [[tool.traceql.suppress]]
            rule = "TQL401"
            kernel = "lm_head*"
            reason = "by design"
            expires = 2027-01-31
            """,
            "deep/pyproject.toml",
        )
    )
    assert codes(loaded) == {c for c in registry.rules() if c.startswith("TQL1")} - {"TQL107"} | {"TQL401", "TQL301"}
    assert loaded.named == {"TQL401", "TQL301"}
    assert loaded.fail_on is Severity.ERROR
    assert loaded.hardware == Path("deep/gpus.toml")
    assert (loaded.baseline.file, loaded.baseline.tolerance_pct, loaded.baseline.tolerance_us_per_step) == (
        "base.json",
        5,
        5,
    )
    assert loaded.selection.options == {"TQL101": {"min_gap_us": 7.0, "min_share_pct": 2.5}}
    assert loaded.selection.severities == {"TQL101": Severity.ERROR, "TQL103": Severity.INFO}
    assert [(b.metric, b.sql, b.kind, b.max, b.min) for b in loaded.budgets] == [
        ("step.gpu_idle_pct", None, "decode", 8, None), (None, "select count(*) from kernels", None, None, 1),
    ]  # fmt: skip
    (suppression,) = loaded.selection.suppressions
    assert (suppression.label, suppression.expires) == ("TQL401 kernel=lm_head*", date(2027, 1, 31))


def test_the_nearest_file_upwards_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    written('[tool.traceql]\nselect = ["TQL1"]', "pyproject.toml")
    written('[project]\nname = "x"', "a/pyproject.toml")
    Path("a/b").mkdir()
    monkeypatch.chdir("a/b")
    assert config.load().path == Path("../../pyproject.toml")
    written('select = ["TQL3"]', "../traceql.toml")
    assert config.load().path == Path("../traceql.toml")
    written("[tool.traceql]", "../pyproject.toml")
    assert config.load().path == Path("../traceql.toml"), "traceql.toml goes before pyproject.toml"
    assert config_file.find(Path("/nowhere/at/all")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slect = []", "traceql.toml: slect: no such key; did you mean select?"),
        ("fail_onn = 'error'", "fail_onn: no such key; did you mean fail-on?"),
        ("fail-on = 'fatal'", "fail-on: expected one of error, warning, info, got 'fatal'"),
        ("fail-on = 'error'\nfail_on = 'info'", "fail_on: given twice"),
        ("select = ['TQL999']", "select: no rule 'TQL999'; did you mean TQL"),
        ("ignore = ['lanch-gap']", "ignore: no rule 'lanch-gap'; did you mean launch-gap?"),
        ("select = 'TQL1'", "select: expected array, got string"),
        ("[rules.TQL101]\nmin-gap = 3", "rules.TQL101.min-gap: no such option; did you mean min-gap-us?"),
        ("[rules.TQL101]\nmin-gap-us = 'x'", "rules.TQL101.min-gap-us: must be a number, not 'x'"),
        ("[rules.TQL101]\nseverity = 'fatal'", "rules.TQL101.severity: expected error, warning or info, got 'fatal'"),
        ("[rules.TQL1]\nmin-gap-us = 3", "rules.TQL1: is a family; name one rule"),
        ("[rules.TQL11x]\nmin-gap-us = 3", "rules.TQL11x: no rule 'TQL11x'"),
        ("[[budgets]]\nmetrik = 'step.kernels'\nmax = 1", "budgets[0].metrik: no such key; did you mean metric?"),
        (
            "[[budgets]]\nmetric = 'step.kernel'\nmax = 1",
            "budgets[0]: no metric 'step.kernel'; did you mean step.kernels?",
        ),
        ("[[budgets]]\nmetric = 'step.kernels'", "budgets[0]: give max or min"),
        ("[[budgets]]\nmax = 3", "budgets[0]: give either metric or sql"),
        (
            "[[budgets]]\nsql = 'select 1'\nkind = 'decode'\nmax = 3",
            "budgets[0]: kind and batch-size belong to a metric",
        ),
        (
            "[[budgets]]\nmetric = 'step.kernels'\nkind = 'decod'\nmax = 3",
            "budgets[0].kind: expected one of prefill, decode, mixed, verify, draft, other, got 'decod'",
        ),
        ("[[suppress]]\nrule = 'TQL101'", "suppress[0]: lacks the key reason"),
        ("[[suppress]]\nrule = 'TQL101'\nreason = ''", "suppress[0].reason: expected a text"),
        ("[[suppress]]\nrule = 'TQL10x'\nreason = 'r'", "suppress[0].rule: no rule 'TQL10x'"),
        (
            "[[suppress]]\nrule = 'TQL101'\nreason = 'r'\nexpires = 'soon'",
            "suppress[0].expires: invalid RFC3339 encoded date",
        ),
        ("[baseline]\ntolerance = 3", "baseline.tolerance: no such key; did you mean tolerance-pct?"),
        ("[tool.traceql]\nselect = []", "tool: outside a pyproject.toml the keys stand at the top"),
        ("select = [", "traceql.toml: not valid TOML"),
        ("select = []", "traceql.toml: select and ignore leave no rule to run"),
        ("ignore = ['TQL']", "select and ignore leave no rule to run, and there is no budget"),
        ("select = ['']", "select: no rule ''"),
        ("select = [1]", "select[0]: expected string, got integer"),
        ("fail-on = 'Warning'", "fail-on: expected one of error, warning, info, got 'Warning'"),
        ("Select = ['TQL1']", "Select: no such key; did you mean select?"),
        ("[rules]\nTQL101 = 3", "rules.TQL101: expected a table of options, such as min-share-pct = 5, got 3"),
        ("[rules.TQL101]\nmin-gap-us = -3", "rules.TQL101.min-gap-us: must be a finite number, 0 or more, not -3"),
        ("[rules.TQL101]\nmin-gap-us = nan", "rules.TQL101.min-gap-us: must be a finite number, 0 or more, not nan"),
        ("[rules.TQL101]\nmin-gap-us = true", "rules.TQL101.min-gap-us: must be a number, not True"),
        ("[rules.TQL101]\nmin-gap-us = [3]", "rules.TQL101.min-gap-us: must be a number, not [3]"),
        ("[rules.TQL101]\nmin-gap-ms = 4", "rules.TQL101.min-gap-ms: no such option; did you mean min-gap-us?"),
        ("[rules.TQL101]\nmin_gap_us = 3\nmin-gap-us = 4", "rules.TQL101.min-gap-us: given twice"),
        ("[rules.launch-gap]\n[rules.TQL101]", "rules.TQL101: given twice, as launch-gap and as TQL101"),
        ("[rules.TQL203]\nmin-gap-us = 3", "rules.TQL203.min-gap-us: no such option; known are: severity"),
        ("[suppress]\nrule = 'TQL101'", "suppress: expected array, got table; write it as [[suppress]]"),
        ("[budgets]\nmax = 3", "budgets: expected array, got table; write it as [[budgets]]"),
        (
            "[[suppress]]\nrule = 'TQL101'\nreason = 'r'\nkernal = 'a'",
            "suppress[0].kernal: no such key; did you mean kernel?",
        ),
        ("[baseline]\ntolerance-pct = -5", "baseline.tolerance-pct: expected number >= 0"),
        ("[[budgets]]\nmetric = 'step.kernels'\nmax = 3\nmin = 5", "budgets[0]: min, 5, is over max, 3"),
        ("hardware = 3", "hardware: expected string, got integer"),
        ("baseline = 'x'", "baseline: expected table, got string"),
    ],
)
def test_what_is_wrong_is_named(text: str, expected: str) -> None:
    assert expected in error(text)


def test_errors_in_a_pyproject_name_the_whole_key() -> None:
    message = error("[tool.traceql.rules.TQL101]\nmin-gap = 3", "pyproject.toml")
    assert message.startswith("pyproject.toml: tool.traceql.rules.TQL101.min-gap: no such option")
    assert "pyproject.toml: has no [tool.traceql] table" in error("[project]", "pyproject.toml")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"^none\.toml: cannot be read \(No such file"):
        config.load(Path("none.toml"))


FILE = """
select = ["TQL1"]
ignore = ["TQL107"]
[rules.TQL101]
min-gap-us = 7
min-share-pct = 3
"""


def test_the_command_line_wins() -> None:
    path = written(FILE)
    assert "TQL107" in codes(config.load(path, select=["TQL107, TQL3"])), "--select replaces the file's ignore as well"
    assert "TQL101" not in codes(config.load(path, select=["TQL107,TQL3"]))
    assert not {"TQL107", "TQL102"} & codes(config.load(path, ignore=["launch-bound-step"]))
    assert config.load(path, select=["launch-gap,TQL3"]).named == {"TQL101"}
    options = config.load(path, options=["launch-gap.min-gap-us=9"]).selection.options
    assert options == {"TQL101": {"min_gap_us": 9.0, "min_share_pct": 3.0}}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("TQL101.min_gap_us", "expected RULE.OPTION=NUMBER"),
        ("TQL101.min_gap=3", "TQL101 has no option 'min_gap'"),
        ("TQL1.min_gap_us=3", "'TQL1' is a family"),
    ],
)
def test_wrong_options_of_the_command_line(option: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected.replace("(", r"\(")):
        config.load(options=[option])


def test_configured_peaks_reach_the_roofline() -> None:
    written('[[gpu]]\nname = "Testchip 1"\nmatch = ["Testchip 1"]\nbandwidth_tb_per_s = 9.0', "gpus.toml")
    loaded = config.load(written('hardware = "gpus.toml"'))
    builder = TraceBuilder(gpu="Testchip 1")
    from traceql.derived.roofline import device_match

    (trace,) = loaded.equipped([builder.trace()])
    gpu = device_match(trace, 0).gpu
    assert gpu is not None
    assert gpu.bandwidth_bytes_per_s == 9e12
    assert device_match(builder.trace(), 0).gpu is None


def test_configured_kernel_patterns_name_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceql.kernel_names._own", [])
    written("[[kernel]]\ncategory = 'attention'\npattern = '^my_secret'", "kernels.toml")
    build = TraceBuilder()
    build.launch("my_secret_kernel", call_us=1, gpu_us=10, gpu_dur_us=5)
    (trace,) = config.load(written("kernel-patterns = 'kernels.toml'")).equipped([build.trace()])
    assert trace.table("kernels")["category"].to_list() == ["attention"]
    with pytest.raises(UsageError, match=r"^none\.toml: kernel patterns cannot be read \(No such file or directory\)$"):
        config.load(written("kernel-patterns = 'none.toml'")).equipped([])


def test_a_file_of_peaks_is_checked_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"^none\.toml: cannot be read"):
        config.load(written("hardware = 'none.toml'")).equipped([])


def test_budgets_alone_are_something_to_run() -> None:
    loaded = config.load(written("select = []\n[[budgets]]\nmetric = 'step.kernels'\nmax = 3"))
    assert (codes(loaded), len(loaded.budgets)) == (set(), 1)


def test_a_command_line_that_leaves_nothing_is_wrong() -> None:
    with pytest.raises(UsageError, match=r"^command line: select and ignore leave no rule to run"):
        config.load(select=["TQL101"], ignore=["launch-gap"])


def test_analyze_uses_the_file_found(capsys: pytest.CaptureFixture[str]) -> None:
    written('select = ["TQL103"]')
    ran = traceql(capsys, "analyze", "--sample", "sglang-h200-bs64-decode-graph", "--format", "text")
    assert ran.code == 0
    assert "TQL103" in ran.out
    assert "TQL101" not in ran.out
    ran = traceql(
        capsys, "analyze", "--sample", "sglang-h200-bs64-decode-graph", "--format", "text", "--config", "x.toml"
    )
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("traceql: x.toml: cannot be read")
