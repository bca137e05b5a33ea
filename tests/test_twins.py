"""One problem that two profilers saw is told once; what only looks alike is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import traceql
from hypothesis import given, settings
from hypothesis import strategies as st

from traceql import samples
from traceql.finding import Finding, Severity
from traceql.opening import TraceSet, open_trace
from traceql.report.labels import trace_labels
from traceql.report.view import build
from traceql.reporting import Report, analyze
from traceql.run_manifest import FILE
from traceql.twins import Entry, Recording, entries, recording

TORCH, NSYS = Recording("/r/", "eager", "torch_profiler", kind="decode"), Recording("/r/", "eager", "nsys")


@pytest.fixture(scope="module")
def run() -> Report:
    return analyze(samples.path("sglang-h200-bs64-run"))


def found(trace: int, code: str = "TQL101", subject: str | None = None, us: float | None = 10.0) -> Finding:
    return Finding(
        code, "a-rule", Severity.WARNING, f"{code} in {trace}", subject=subject, estimated_savings_us_per_step=us,
        fingerprint=f"{code}{subject}", trace=trace,
    )  # fmt: skip


def told(findings: list[Finding], *recordings: Recording | None) -> list[list[int]]:
    """The traces of each entry's findings."""
    return [[f.trace for f in entry.findings] for entry in entries(findings, recordings)]


def test_the_only_findings_of_a_rule_in_one_mode_are_one_problem() -> None:
    pair = [found(0, subject="no host activity recorded", us=9.0), found(1, subject="aten::linear", us=8.0)]
    (entry,) = entries(pair, [NSYS, TORCH])
    assert [f.trace for f in entry.findings] == [1, 0], "PyTorch first: it knows the names"
    assert entry.sized.trace == 0, "Nsight Systems tells the size: it slows the host less"
    unsized = Entry((pair[1], found(0, us=None)))
    assert unsized.sized is pair[1]


@pytest.mark.parametrize(
    "other",
    [
        None,
        Recording("/r/", "graph", "nsys"),
        Recording("/another/", "eager", "nsys"),
        Recording("/r/", "eager", "ncu"),
        Recording("/r/", "eager", "torch_profiler"),
        Recording("/r/", "eager", "nsys", kind="prefill"),
    ],
)
def test_another_run_mode_or_kind_of_step_is_another_problem(other: Recording | None) -> None:
    assert told([found(0), found(1)], TORCH, other) == [[0], [1]]


def test_what_is_about_a_capture_itself_stays_its_own() -> None:
    assert told([found(0, "TQL902"), found(1, "TQL902")], TORCH, NSYS) == [[0], [1]]


def test_several_findings_of_a_rule_go_by_their_subject() -> None:
    findings = [found(0, subject="a"), found(0, subject="b"), found(1, subject="b"), found(1, subject="c")]
    assert sorted(told(findings, TORCH, NSYS)) == [[0], [0, 1], [1]]
    assert told([found(0, subject="a"), found(0, subject="b"), found(1, subject="z")], TORCH, NSYS) == [[0], [0], [1]]


def _of(rank: int, source: str, mode: str | None = "eager") -> Recording:
    return Recording("/r/", mode, source, rank)


FOUR = [_of(0, "torch_profiler"), _of(1, "torch_profiler"), _of(0, "nsys"), _of(1, "nsys")]


def test_ranks_pair_with_their_own() -> None:
    apart = [found(index, subject=f"of {index % 2}") for index in range(4)]
    assert told(apart, *FOUR) == [[0, 2], [1, 3]]
    assert told([found(index, subject=str(index)) for index in range(3)], FOUR[0], FOUR[1], NSYS) == [[0], [1], [2]]


def test_what_every_rank_has_is_one_problem_as_large_as_on_the_worst() -> None:
    (entry,) = entries([found(0, us=4.0), found(1, us=9.0), found(2, us=8.0), found(3, us=2.0)], FOUR)
    assert [f.trace for f in entry.findings] == [1, 2]
    assert [f.trace for f in entry.others] == [0, 3]
    assert entry.sized.trace == 2
    assert sorted(f.trace for f in entry.every) == [0, 1, 2, 3]
    # without a run directory ranks still belong together, profilers do not
    unlisted = [_of(rank, source, None) for source in ("torch_profiler", "nsys") for rank in (0, 1)]
    assert told([found(index) for index in range(4)], *unlisted) == [[0], [2]]


def test_other_problems_and_other_captures_of_a_rank_stay_apart() -> None:
    assert told([found(0, subject="a"), found(1, subject="b")], *FOUR[:2]) == [[0], [1]]
    twice = [_of(0, "torch_profiler"), _of(0, "torch_profiler")]
    assert told([found(0), found(1)], *twice) == [[0], [1]]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["TQL101", "TQL302", "TQL901"]), st.sampled_from("ab"),
                  st.none() | st.floats(0, 100)),
        max_size=12, unique_by=lambda row: row[:3],
    ),
    st.lists(
        st.none() | st.builds(_of, st.integers(0, 2), st.sampled_from(["torch_profiler", "nsys"]),
                              st.sampled_from([None, "eager", "graph"])),
        min_size=8, max_size=8,
    ),
)  # fmt: skip
def test_every_finding_is_told_once_whatever_the_traces_are(
    rows: list[tuple[int, str, str, float | None]], recordings: list[Recording | None]
) -> None:
    findings = [found(trace, code, subject, us) for trace, code, subject, us in rows]
    made = entries(findings, recordings)
    assert sorted(map(id, findings)) == sorted(id(f) for entry in made for f in entry.every)
    for entry in made:
        assert len({f.code for f in entry.every}) == 1
        assert len({(f.trace) for f in entry.every}) == len(entry.every)


def test_every_finding_of_a_run_is_told_in_exactly_one_entry(run: Report) -> None:
    listed = [f for entry in run.entries for f in entry.every]
    assert sorted(map(id, listed)) == sorted(map(id, run.found))
    gaps = [entry for entry in run.entries if entry.findings[0].code == "TQL101"]
    assert [[run.traces[f.trace].source for f in entry.findings] for entry in gaps] == [["torch_profiler", "nsys"]] * 2
    orders = [entry.order for entry in run.entries]
    assert orders == sorted(orders)


def test_traces_of_a_run_are_called_by_mode_and_profiler(run: Report) -> None:
    view = build(run, timeline=False)
    modes = [
        f"{mode} · {profiler}" for mode in ("eager", "graph") for profiler in ("Nsight Systems", "PyTorch profiler")
    ]
    assert [trace.label for trace in view.traces] == modes
    assert view.title == "4 traces of sglang-h200-bs64-run"
    assert "sglang-eager.sqlite" in {figure.value for figure in view.traces[0].provenance}
    assert trace_labels(run.traces[:1] * 2, run.recordings[:1] * 2) == ["sglang-eager.sqlite"] * 2, "not the same twice"
    alone = [recording(trace) for trace in TraceSet((open_trace(run.traces[0].path),)).traces]  # type: ignore[arg-type]
    assert alone == [None]
    assert FILE in run.traces[0].loaded["metadata"]["key"].to_list()


def test_the_first_lines_tell_the_steps_without_a_profiler_of_every_mode_and_run(run: Report) -> None:
    told = "A decode step without the profiler: eager 15.7 ms, graph 7.77 ms."
    for form in ("text", "markdown", "html"):
        assert told in " ".join(run.render(form).replace("&nbsp;", " ").replace("\u00a0", " ").split())
    sweep = build(analyze(samples.path("sglang-h200-tp-scaling")), timeline=False)
    assert sweep.recorded == "A decode step without the profiler: tp1 7.59 ms, tp2 5.04 ms, tp4 4.25 ms."
    assert build(analyze(run.traces[0]), timeline=False).recorded == ""


def test_text_names_both_captures_and_what_each_says(run: Report) -> None:
    text = run.render("text")
    assert text.count("launch-gap  TQL101") == 2
    assert "also    eager · Nsight Systems" in text
    assert "size    Nsight Systems says 8.8" in text
    assert f"{len(run.entries)}\nfindings:" in text or f"{len(run.entries)} findings:" in text
    markdown = run.render("markdown")
    assert markdown.count("**launch-gap**") == 2
    assert "Nsight Systems says" in markdown


def test_html_holds_both_with_their_evidence(run: Report) -> None:
    page = run.render("html")
    twins = [twin for card in build(run, timeline=False).cards for twin in card.twins]
    assert twins
    for twin in twins:
        assert page.count(f'id="{twin.anchor}"') == 1
        assert twin.tables


def test_json_keeps_every_finding_and_numbers_them_as_the_text(run: Report) -> None:
    document = json.loads(run.render("json"))
    assert len(document["findings"]) == len(run.found)
    cards = {card.number: card for card in build(run, timeline=False).cards}
    for finding in document["findings"]:
        assert finding["message"] in {card.message for card in cards[finding["number"]].every}


def test_open_takes_the_number_that_the_report_shows(
    run: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = next(at for at, entry in enumerate(run.entries, 1) if len(entry.findings) == 2)
    path = samples.path("sglang-h200-bs64-run")
    ran = traceql(capsys, "open", path, "--finding", str(number), "-o", tmp_path / "cut.json.gz")
    assert ran.code == 0
    assert run.entries[number - 1].findings[0].message in ran.err
    beyond = traceql(capsys, "open", path, "--finding", str(len(run.entries) + 1), "-o", tmp_path / "cut.json.gz")
    assert beyond.code == 2
    assert f"has {len(run.entries)} findings" in beyond.err
