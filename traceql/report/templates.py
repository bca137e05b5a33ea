"""The Jinja environment of the report's templates: everything from outside is escaped."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape


@cache
def environment() -> Environment:
    """Templates of the package ``traceql.templates``; HTML ones escape what they are given."""
    from traceql.report import charts, markdown

    made = Environment(
        loader=FunctionLoader(source),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["coord"] = _coordinate
    made.filters["md"] = markdown.escaped
    made.filters["code"] = markdown.code
    made.filters["md_table"] = markdown.table
    made.filters["tied"] = _tied
    made.filters["prose"] = _prose
    made.filters["capitalised"] = _capitalised
    made.filters["uncapitalised"] = _uncapitalised
    made.filters["md_prose"] = markdown.prose
    made.globals["charts"] = charts
    return made


def source(name: str) -> str:
    """Text of a template, style sheet or script."""
    return files("traceql.templates").joinpath(name).read_text(encoding="utf-8")


_NUMBER_AND_UNIT = re.compile(r"(?<=\d) (?=(?:ns|µs|ms|s|%|B|kB|MB|GB|TB|GFLOP|TFLOP|FLOP|tokens)\b|%)")


def _tied(text: str) -> str:
    """``text`` with numbers tied to their units: no line breaks between them."""
    return _NUMBER_AND_UNIT.sub("\N{NO-BREAK SPACE}", text)


_CODE = re.compile(r"`([^`]+)`")


def _prose(text: str) -> Markup:
    """A sentence as HTML, escaped, what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(_tied(text)))))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def _coordinate(value: float) -> str:
    """A coordinate without a tail of digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
