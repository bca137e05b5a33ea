"""What every page of traceql is: one file, nothing loaded from anywhere, only its own script and style run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from traceql.report.templates import environment, source


def rendered(template: str, styles: Sequence[str], scripts: Sequence[str], **context: Any) -> str:
    """``template`` with the named style sheets, and scripts concatenated into one strict function scope.

    The template gets ``style``, ``script``, ``head_script``, ``policy`` and ``context``.
    """
    style = "".join(source(name) for name in styles)
    script = '"use strict";\n(() => {\n' + "".join(source(name) for name in scripts) + "})();\n"
    head_script = source("theme.js")
    return environment().get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        head_script=Markup(head_script),
        policy=_policy([style], [head_script, script]),
        **context,
    )  # fmt: skip


def _policy(styles: list[str], scripts: list[str]) -> str:
    """Nothing is loaded from anywhere; only the page's own script and style run, named by their hashes."""
    return "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(_hash(text) for text in scripts),
            "style-src " + " ".join(_hash(text) for text in styles),
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
