"""A lint result as JUnit XML, in the form Jenkins and GitLab read: a suite a trace with a case a rule, one of budgets, and one
of what could not be checked."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from traceql.engine import Outcome
from traceql.gate.budgets import Checked
from traceql.gate.lint import Judged, LintResult
from traceql.gate.text import change
from traceql.report.labels import trace_labels
from traceql.report.names import LONGEST, shown

_LONGEST = 5 * LONGEST
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(result: LintResult) -> str:
    """The document with declaration and final newline."""
    root = ElementTree.Element("testsuites", name="traceql")
    labels = trace_labels(result.report.traces)
    for label, outcomes in zip(labels, result.report.outcomes, strict=True):
        suite = ElementTree.SubElement(root, "testsuite", name=_xml(label))
        for outcome in outcomes:
            # a rule over all traces stands with the first, whichever its findings are about
            _rule(suite, label, outcome, [j for j in result.findings if any(j.finding is f for f in outcome.findings)])
    if result.budgets:
        suite = ElementTree.SubElement(root, "testsuite", name="budgets")
        for checked in result.budgets:
            _budget(suite, checked)
    untold = [*((line, "error") for line in result.report.unreadable)]
    untold += [(line, "skipped" if result.allow_incomplete else "error") for line in result.incomplete]
    if untold:
        suite = ElementTree.SubElement(root, "testsuite", name="completeness")
        for line, tag in untold:
            _child(_case(suite, "completeness", line.split(": ", 1)[0]), tag, line)
    for suite in root:
        _count(suite)
    _count(root)
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _rule(suite: ElementTree.Element, label: str, outcome: Outcome, judged: list[Judged]) -> None:
    case = _case(suite, label, f"{outcome.code} {outcome.name}", outcome.seconds)
    failing = [j for j in judged if j.fails]
    if outcome.outcome == "error":
        _child(case, "error", outcome.reason or "", outcome.traceback or "")
    elif failing:
        # one failure element a case is what every reader understands: the worst heads it, all are in the text
        text = "\n\n".join("\n".join([_line(j), *(f"- {a}" for a in j.finding.advice)]) for j in failing)
        _child(case, "failure", failing[0].finding.message, text, type=failing[0].finding.severity.label)
    elif outcome.outcome == "not_applicable":
        _child(case, "skipped", outcome.reason or "")
    if judged and not failing:
        ElementTree.SubElement(case, "system-out").text = _xml("\n".join(map(_line, judged)))


def _line(judged: Judged) -> str:
    note = change(judged)
    return f"{judged.finding.severity.label}{f' [{note}]' if note else ''}: {judged.finding.message}"


def _budget(suite: ElementTree.Element, checked: Checked) -> None:
    case = _case(suite, "budgets", f"{checked.budget.label} {checked.budget.limit}")
    if checked.state == "exceeded":
        _child(case, "failure", checked.message, type="error")
    elif checked.state == "unknown":
        _child(case, "skipped", checked.message)


def _case(suite: ElementTree.Element, group: str, name: str, seconds: float = 0.0) -> ElementTree.Element:
    attributes = {"classname": _xml(f"traceql.{group}"), "name": _xml(name), "time": f"{seconds:.3f}"}
    return ElementTree.SubElement(suite, "testcase", attributes)


def _child(case: ElementTree.Element, tag: str, message: str, text: str = "", **attributes: str) -> None:
    child = ElementTree.SubElement(case, tag, {"message": _xml(message), **attributes})
    if text:
        child.text = _xml(text)


def _count(element: ElementTree.Element) -> None:
    cases = list(element.iter("testcase"))
    found = {tag: sum(case.find(child) is not None for case in cases) for tag, child in _COUNTED.items()}
    if element.tag == "testsuites":
        found.pop("skipped")  # suites have the attribute, their root has not
    element.set("tests", str(len(cases)))
    for tag, number in found.items():
        element.set(tag, str(number))
    element.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")


_COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def _xml(text: str) -> str:
    """``text`` without what XML cannot hold, and without its end where it is endless."""
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return _NOT_XML.sub("\ufffd", "\n".join(shown(line) for line in text.split("\n")))
