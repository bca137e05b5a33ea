"""Every option of every rule matters: set far enough to either side, it changes what the rule says of one of its cases."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import CASES, outcomes

from traceql import engine, registry

OPTIONS = [(code, f.name) for code, rule in registry.rules().items() for f in dataclasses.fields(rule.Options)]
FACTORS = (1e6, 0.0, 10.0, 0.1, 2.0, 0.5, 1.1, 0.9)
"""Of the default; a share over 100 % switches a rule off."""


@cache
def _cases(code: str) -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(path.read_text()) for path in sorted((CASES / code).glob("*.yml")))


def _said(case: dict[str, Any], folder: Path, code: str, options: dict[str, float]) -> list[tuple[Any, ...]]:
    rule = registry.rules()[code]
    given = {**case.get("options", {}), **options}
    found = outcomes(case, folder, engine.Selection([rule], options={code: given}))
    return [
        (o.outcome, o.reason, f.message, f.severity, f.evidence) for each in found for o in each for f in o.findings
    ] + [(o.outcome,) for each in found for o in each]


@pytest.mark.parametrize(("code", "option"), OPTIONS, ids=lambda part: part)
def test_option_is_effective(code: str, option: str, tmp_path: Path) -> None:
    default = getattr(registry.rules()[code].Options(), option)
    for case in _cases(code):
        own = case.get("options", {}).get(option, default)
        usual = _said(case, tmp_path, code, {})
        if any(_said(case, tmp_path, code, {option: own * factor}) != usual for factor in FACTORS):
            return
    pytest.fail(f"{code}.{option}: no case of the rule tells one value from another")
