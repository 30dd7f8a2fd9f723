"""What ``moonyard check`` finds, and how it is told to people, programs and editors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import PurePath
from typing import Final, Literal
from urllib.parse import quote

import msgspec

Severity = Literal["error", "warning"]

CODES: Final = {
    "pipeline_invalid": "The file is no valid pipeline.",
    "lua_syntax": "The file is no Lua.",
    "name_undefined": "Nothing has this name.",
    "name_absent": "Lua has this elsewhere, and scripts here have not.",
    "function_unknown": "A module has no function or value of this name.",
    "field_unknown": "A table has no field of this name.",
    "input_unknown": "The pipeline has no input of this name.",
    "module_unknown": "There is no module or plugin of this name.",
    "argument_unknown": "A function takes no argument of this name.",
    "argument_missing": "A function needs an argument that it is not given.",
    "argument_type": "A function is given something that it does not take.",
    "argument_excess": "A function is given more than it takes.",
    "colon_call": "A module's function is called with a colon.",
    "variable_unused": "A local variable is never read.",
    "global_assigned": "A name without `local` is assigned to.",
}
"""What each code stands for; what a pipeline's load raises may have others."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A mistake: where it is, lines and columns from 1, columns in characters, the end not included."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    severity: Severity
    code: str
    message: str
    hint: str | None = None


def sarif(findings: Sequence[Finding]) -> bytes:
    """Write findings as SARIF 2.1.0, which editors and forges read."""
    used = sorted({finding.code for finding in findings})
    run = {
        "tool": {
            "driver": {
                "name": "moonyard check",
                "version": metadata.version("moonyard"),
                "rules": [
                    {"id": code, "shortDescription": {"text": CODES.get(code, code.replace("_", " "))}} for code in used
                ],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding) for finding in findings],
    }
    return msgspec.json.encode(
        {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    )


def _result(finding: Finding) -> dict[str, object]:
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.end_line,
        "endColumn": finding.end_column,
    }
    uri = quote(PurePath(finding.file).as_posix())
    return {
        "ruleId": finding.code,
        "level": finding.severity,
        "message": {"text": finding.message + (f" ({finding.hint})" if finding.hint else "")},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}],
    }
