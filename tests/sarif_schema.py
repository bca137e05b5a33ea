"""The parts of the SARIF 2.1.0 standard (OASIS, errata 01) that traceql writes, as a JSON Schema.

Written from the standard's text: required properties, value sets, and no property beyond those named. Section numbers
are the standard's.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_BAG = {"type": "object", "properties": {"tags": {"type": "array", "items": _TEXT, "uniqueItems": True}}}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}


def _object(required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "additionalProperties": False, "required": list(required),
        "properties": {**properties, "properties": _BAG},
    }  # fmt: skip


def _list(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


_MESSAGE = _object((), text=_TEXT, markdown=_TEXT, id=_TEXT, arguments=_list(_TEXT))  # 3.11
_MULTIFORMAT = _object(("text",), text=_TEXT, markdown=_TEXT)  # 3.12
_ARTIFACT_LOCATION = _object(
    (), uri={"type": "string", "format": "uri-reference"}, index={"type": "integer", "minimum": -1}
)  # 3.4
_REGION = _object(
    (), startLine={"type": "integer", "minimum": 1}, startColumn={"type": "integer", "minimum": 1}
)  # 3.30
_PHYSICAL = _object((), artifactLocation=_ARTIFACT_LOCATION, region=_REGION)  # 3.29
_LOGICAL = _object((), name=_TEXT, fullyQualifiedName=_TEXT, kind=_TEXT)  # 3.33
_LOCATION = _object((), physicalLocation=_PHYSICAL, logicalLocations=_list(_LOGICAL, uniqueItems=True))  # 3.28
_DESCRIPTOR = _object(  # 3.49
    ("id",), id=_TEXT, name=_TEXT, shortDescription=_MULTIFORMAT, fullDescription=_MULTIFORMAT, help=_MULTIFORMAT,
    defaultConfiguration=_object((), level=_LEVEL),
)  # fmt: skip
_SUPPRESSION = _object(  # 3.35
    ("kind",), kind={"enum": ["inSource", "external"]}, status={"enum": ["accepted", "underReview", "rejected"]},
    justification=_TEXT,
)  # fmt: skip
_RESULT = _object(  # 3.27
    ("message",), ruleId=_TEXT, ruleIndex={"type": "integer", "minimum": -1}, level=_LEVEL, message=_MESSAGE,
    locations=_list(_LOCATION), partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    baselineState={"enum": ["new", "unchanged", "updated", "absent"]},
    suppressions=_list(_SUPPRESSION, uniqueItems=True),
)  # fmt: skip
_NOTIFICATION = _object(("message",), message=_MESSAGE, level=_LEVEL)  # 3.58
_INVOCATION = _object(  # 3.20
    ("executionSuccessful",), executionSuccessful={"type": "boolean"}, exitCode={"type": "integer"},
    toolExecutionNotifications=_list(_NOTIFICATION),
)  # fmt: skip
_ARTIFACT = _object(
    (), location=_ARTIFACT_LOCATION, roles=_list({"enum": ["analysisTarget"]}, uniqueItems=True)
)  # 3.24
_DRIVER = _object(("name",), name=_TEXT, version=_TEXT, rules=_list(_DESCRIPTOR, uniqueItems=True))  # 3.19
_RUN = _object(  # 3.14
    ("tool",), tool=_object(("driver",), driver=_DRIVER), automationDetails=_object((), id=_TEXT),
    invocations=_list(_INVOCATION), artifacts=_list(_ARTIFACT, uniqueItems=True), results=_list(_RESULT),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
)  # fmt: skip

SCHEMA: dict[str, Any] = {  # 3.13
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "runs"],
    "properties": {"$schema": {"type": "string", "format": "uri"}, "version": {"const": "2.1.0"}, "runs": _list(_RUN)},
}
