"""The README says what happens: its output block is real, its links lead somewhere, its commands are two."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import traces

import traceql as tq
from traceql import samples

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_output_is_what_the_command_prints() -> None:
    (block,) = re.findall(r"<!-- output -->\n```text\n(.*?)```", TEXT, re.DOTALL)
    report = tq.analyze(traces.opened(samples.path("sglang-h200-bs64-decode-eager")))
    printed = {" ".join(line.split()) for line in report.render("text").splitlines()}
    for line in block.strip().splitlines():
        assert line == "…" or " ".join(line.split()) in printed, line


def test_two_commands_are_marked_for_ci() -> None:
    commands = re.findall(r"<!-- ci -->\n```bash\n(.*?)\n```", TEXT, re.DOTALL)
    assert len(commands) == 2
    assert "traceql analyze --sample" in commands[0]
    assert "pytest" in commands[1]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", TEXT))))
def test_links_lead_somewhere(link: tuple[str, str]) -> None:
    assert (ROOT / (link[0] or link[1])).exists()
