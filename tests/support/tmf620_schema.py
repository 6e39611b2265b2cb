"""The JSON Schema of the export for TM Forum's catalogue API, and a validator of its keywords."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tariffs.release import tmf620

SCHEMA: dict[str, Any] = json.loads(
    Path(tmf620.__file__).with_name("tmf620.schema.json").read_text("utf-8")
)
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
ANNOTATIONS = {"$schema", "title", "description", "$defs"}


def violations(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """Yield the violations of a JSON Schema, for the keywords of ours; others are an error."""
    if "$ref" in schema:
        return violations(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    wrong: list[str] = []
    for word, wanted in schema.items():
        match word:
            case "type":
                kinds = wanted if isinstance(wanted, list) else [wanted]
                if not any(
                    isinstance(value, TYPES[kind])
                    and isinstance(value, bool) == (kind == "boolean")
                    for kind in kinds
                ):
                    return [f"{at}: {value!r} is no {wanted}"]
            case "required":
                wrong += [f"{at}: {name} is missing" for name in wanted if name not in value]
            case "additionalProperties":
                wrong += [
                    f"{at}: {name} is not known"
                    for name in value
                    if name not in schema["properties"]
                ]
            case "properties":
                wrong += [
                    e
                    for name, inner in wanted.items()
                    if name in value
                    for e in violations(value[name], inner, f"{at}.{name}")
                ]
            case "items":
                wrong += [
                    e
                    for number, each in enumerate(value)
                    for e in violations(each, wanted, f"{at}[{number}]")
                ]
            case "enum":
                wrong += [] if value in wanted else [f"{at}: {value!r} is none of {wanted}"]
            case "const":
                wrong += [] if value == wanted else [f"{at}: {value!r} is not {wanted}"]
            case "pattern":
                wrong += (
                    [] if re.search(wanted, value) else [f"{at}: {value!r} does not match {wanted}"]
                )
            case "minItems" | "minLength":
                wrong += [] if len(value) >= wanted else [f"{at}: too short"]
            case "minimum":
                wrong += [] if value >= wanted else [f"{at}: {value} < {wanted}"]
            case _:
                assert word in ANNOTATIONS, f"the schema's word {word} is not known here"
    return wrong
