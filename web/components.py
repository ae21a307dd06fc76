"""The OpenAPI components of requests: made from the models that judge them, with an example that they accept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from actors.runtime.errors import DataRefused, PayloadRefused
from actors.runtime.job_type import JobType
from web.answers import COMPONENTS, ref
from web.job_type_list import description
from web.send_options import Batch, Send
from web.tickets import TicketRequest

#: Levels of a payload's schema that an example is made for.
_DEPTH: Final = 6
#: What stands for a text of a known format.
_FORMATS: Final = {
    "date": "2030-01-31",
    "date-time": "2030-01-31T12:00:00Z",
    "email": "somebody@example.com",
    "uri": "https://example.com/",
    "uuid": "01a205fc-e74c-70c1-981f-dbcba0257d57",
}


def component_name(name: str) -> str:
    """A job type's name as OpenAPI allows it for a component."""
    return re.sub(r"[^a-zA-Z0-9._-]", "_", name)


def request_schemas(kinds: Sequence[JobType]) -> dict[str, Any]:
    """The bodies that requests may have: ``Send`` is one alternative per job type, its payload that type's own."""
    bodies: list[type[BaseModel]] = [Send, Batch, TicketRequest]
    schemas = dict(
        models_json_schema([(body, "validation") for body in bodies], ref_template=COMPONENTS + "{model}")[1]["$defs"]
    )
    send = schemas["Send"]
    alternatives = {}
    for kind in kinds:
        name = component_name(kind.name)
        schemas |= hoisted(f"Payload.{name}", kind.schema())
        properties = {
            **send["properties"],
            "type": {"type": "string", "const": kind.name},
            "payload": ref(f"Payload.{name}"),
        }
        schemas[f"Send.{name}"] = {
            **send,
            "title": kind.name,
            "description": description(kind),
            "properties": properties,
        }
        alternatives[kind.name] = f"{COMPONENTS}Send.{name}"
    schemas["Send"] = {
        "description": send["description"],
        "oneOf": [{"$ref": target} for target in alternatives.values()],
        "discriminator": {"propertyName": "type", "mapping": alternatives},
    }
    if not kinds:
        schemas["Send"] = {"not": {}}  # "not" anything: there is nothing that could be sent
    return schemas


def send_examples(kinds: Sequence[JobType]) -> dict[str, Any]:
    """Examples of a ``Send``, by job type; none for a type whose payload cannot be guessed."""
    found = {}
    for kind in kinds:
        payload = example_payload(kind)
        if payload is not None:
            found[component_name(kind.name)] = {
                "summary": description(kind).replace("``", ""),
                "value": {"type": kind.name, "payload": payload},
            }
    return found


def example_payload(kind: JobType) -> Any:
    """A payload that the job type accepts, the model's own example if it has one; None when there is none."""
    schema = kind.schema()
    payload = _example(schema, schema.get("$defs", {}))
    try:
        kind.kwargs_of(payload, wire=True)
    except (PayloadRefused, DataRefused):
        return None
    return payload


def _example(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> Any:
    if isinstance(schema.get("$ref"), str):
        schema = {**definitions.get(schema["$ref"].rpartition("/")[2], {}), **schema}
    for name in ("examples", "enum", "anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(name), list) and schema[name]:
            first = schema[name][0]
            return first if name in ("examples", "enum") else _example(first, definitions, depth + 1)
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    match schema.get("type"):
        case "object" if depth < _DEPTH:
            properties = schema.get("properties", {})
            return {
                name: _example(declared, definitions, depth + 1)
                for name, declared in properties.items()
                if name in schema.get("required", ()) or "examples" in declared
            }
        case "array" if depth < _DEPTH:
            return [_example(schema.get("items", {}), definitions, depth + 1)] * schema.get("minItems", 0)
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 1))
        case "string":
            return _FORMATS.get(schema.get("format", ""), "text".ljust(schema.get("minLength", 0), "x"))
        case "boolean":
            return False
    return None


def hoisted(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema and its ``$defs`` as components: ``#/$defs/X`` would point to the root of the document."""
    definitions = schema.get("$defs", {})
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    found = {name: rest} | {f"{name}.{component_name(key)}": value for key, value in definitions.items()}
    return {key: _moved(value, name) for key, value in found.items()}


def _moved(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_moved(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(item, name) for key, item in value.items()}
    target = value.get("$ref")
    if isinstance(target, str) and target.startswith("#/$defs/"):
        moved["$ref"] = f"{COMPONENTS}{name}.{component_name(target.removeprefix('#/$defs/'))}"
    return moved
