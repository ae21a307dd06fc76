"""A job type's form: fields from its JSON Schema, and what a browser posted turned back into a payload.

Nothing is validated here but what a form alone can get wrong (text that is no number, text that is no JSON); the
job type's own model is the judge, as it is for the API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.errors import DataRefused
from models.json_data import loads
from web.send_options import option_schemas

#: What the form offers of the options of ``POST /jobs``.
OPTIONS = ("delay", "priority", "max_attempts", "unique_key")
#: JSON Schema's limits that HTML knows under its own names.
_LIMITS = {"minimum": "min", "maximum": "max", "minLength": "minlength", "maxLength": "maxlength"}
#: A text that may be longer than this gets several lines.
_LINE_LENGTH = 5_000
_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?")


@dataclass
class Field:
    """One control of the form.

    Attributes:
      key: the property or option it stands for.
      kind: ``text``, ``lines``, ``number``, ``choice``, ``boolean`` or ``json``.
      schema: the property's schema, references resolved and ``null`` taken out.
      value: what the control shows.
      faults: what is wrong with it, in sentences.
    """

    key: str
    name: str
    kind: str
    schema: Mapping[str, Any]
    required: bool = False
    value: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The control's id in the page."""
        return self.name.replace(".", "-")

    @property
    def label(self) -> str:
        """The name on the wire: what a sender types in JSON is what they see here."""
        return self.key

    @property
    def help(self) -> str:
        """The schema's description, and its bounds in words."""
        parts = [str(self.schema["description"])] if self.schema.get("description") else []
        low, high = self.schema.get("minimum"), self.schema.get("maximum")
        if low is not None and high is not None:
            parts.append(f"{low:,} to {high:,}")
        return " · ".join(parts)

    @property
    def hints(self) -> str:
        """What stands beside the label."""
        words = ["optional"] if not self.required and self.name.startswith("p.") else []
        if self.kind == "json":
            words.append({"object": "JSON object", "array": "JSON list"}.get(str(self.schema.get("type")), "JSON"))
        return ", ".join(words)

    @property
    def input_type(self) -> str:
        """``number``, except while it shows something that is none: a number field would hide that."""
        return "number" if self.kind == "number" and (not self.value or _NUMBER.fullmatch(self.value)) else "text"

    @property
    def choices(self) -> list[str]:
        """The values of an enumeration, as text."""
        return [str(value) for value in self.schema.get("enum", [])]

    @property
    def limits(self) -> dict[str, object]:
        """Attributes by which the browser checks before it sends."""
        found: dict[str, object] = {html: self.schema[name] for name, html in _LIMITS.items() if name in self.schema}
        if self.input_type == "number":
            found["step"] = "1" if self.schema.get("type") == "integer" else "any"
        return found

    def read(self, text: str | None) -> Any:
        """The JSON value of what was posted; :data:`ABSENT` when nothing was said.

        Text that is no number stays text, for the model to refuse it in its own words.

        Raises:
          ValueError: it is not JSON; the message is for the reader.
        """
        if self.kind == "boolean":
            return text is not None
        if text is None:
            return ABSENT
        text = text.replace("\r\n", "\n")  # HTML forms send every line end as CRLF
        self.value = text.replace("\0", "\N{REPLACEMENT CHARACTER}")  # HTML knows no NUL; the model refuses it
        if self.kind in ("json", "number", "choice"):
            text = text.strip()
        if text == "" and not (self.required and self.schema.get("type") == "string"):
            return ABSENT
        if self.kind == "json":
            return _json(text)
        if self.kind == "choice":
            return next((value for value in self.schema["enum"] if str(value) == text), text)
        if self.kind == "number":
            return _number(text, whole=self.schema.get("type") == "integer")
        return text


class _Absent:
    """Nothing was entered: the property is left out, so that the model's default holds."""


ABSENT = _Absent()


@dataclass
class Form:
    """The form of one job type, empty or as it was posted."""

    type: str
    description: str
    payload: list[Field]
    options: list[Field]
    faults: list[str] = field(default_factory=list)

    @property
    def faulty(self) -> int:
        """How many faults there are in all."""
        return len(self.faults) + sum(len(f.faults) for f in (*self.payload, *self.options))

    @property
    def options_used(self) -> bool:
        """Whether an option was entered or refused: the options are then unfolded."""
        return any(f.value or f.faults for f in self.options)

    def read(self, posted: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The payload and the options that were posted; what cannot be read is noted at its field."""
        return _read(self.payload, posted), _read(self.options, posted)

    def refuse(self, pointer: str, message: str) -> None:
        """Note a fault of the payload at the field that its JSON pointer leads to, or above the form."""
        key, _, rest = pointer.removeprefix("/").partition("/")
        key = key.replace("~1", "/").replace("~0", "~")
        for candidate in self.payload:
            if pointer and candidate.key == key:
                candidate.faults.append(f"{message} (at /{rest})" if rest else message)
                return
        self.faults.append(f"{pointer}: {message}" if pointer else message)

    def refuse_option(self, option: str, reason: str) -> None:
        """Note a fault of an option."""
        for candidate in self.options:
            if candidate.key == option:
                candidate.faults.append(reason)
                return
        self.faults.append(f"{option}: {reason}")


def form_for(job_type: str, schema: Mapping[str, Any], description: str = "") -> Form:
    """An empty form, defaults filled in.

    Args:
      job_type: its name on the wire.
      schema: the payload's JSON Schema.
      description: one line for people.
    """
    definitions = schema.get("$defs", {})
    required = set(schema.get("required", ()))
    fields = []
    for key, declared in schema.get("properties", {}).items():
        resolved = _resolved(declared, definitions)
        kind = _kind(resolved)
        made = Field(key, f"p.{key}", kind, resolved, required=key in required and kind != "boolean")
        if declared.get("default") is not None:
            made.value = _shown(declared["default"], kind)
        fields.append(made)
    return Form(job_type, description, fields, [_option(key) for key in OPTIONS])


def _option(key: str) -> Field:
    schema = _resolved(option_schemas()[key], {})
    return Field(key, f"o.{key}", _kind(schema), schema)


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """One level of the schema with its reference followed, and ``X | null`` read as an optional X."""
    for _ in range(8):  # a reference may lead to a reference; a circle ends as an open JSON field
        own = {name: value for name, value in schema.items() if name not in ("$ref", "allOf", "anyOf")}
        if "$ref" in schema:
            schema = {**definitions.get(str(schema["$ref"]).rpartition("/")[2], {}), **own}
        elif len(schema.get("allOf", ())) == 1:
            schema = {**schema["allOf"][0], **own}
        elif "anyOf" in schema:
            variants = [variant for variant in schema["anyOf"] if variant.get("type") != "null"]
            if len(variants) != 1:
                return own
            schema = {**variants[0], **own}
        else:
            return {"enum": [own.pop("const")], **own} if "const" in own else own
    return {}


def _kind(schema: Mapping[str, Any]) -> str:
    if schema.get("enum"):
        return "choice"
    kind = schema.get("type")
    if kind == "boolean":
        return "boolean"
    if kind in ("integer", "number"):
        return "number"
    if kind == "string":
        several = "contentMediaType" in schema or schema.get("maxLength", 0) > _LINE_LENGTH
        return "lines" if several else "text"
    return "json"


def _shown(default: Any, kind: str) -> str:
    if kind in ("json", "boolean"):
        return json.dumps(default, ensure_ascii=False)
    return str(default)


def _read(fields: Iterable[Field], posted: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for entry in fields:
        try:
            value = entry.read(posted.get(entry.name))
        except ValueError as fault:
            entry.faults.append(str(fault))
            continue
        if entry.kind == "boolean":
            entry.value = "true" if value else "false"
        if value is not ABSENT:
            values[entry.key] = value
    return values


def _number(text: str, *, whole: bool) -> int | float | str:
    if _INTEGER.fullmatch(text):
        return int(text)
    if not whole and _NUMBER.fullmatch(text):
        return float(text)
    return text


def _json(text: str) -> Any:
    try:
        return loads(text)
    except DataRefused as refused:
        raise ValueError(f"{refused.reason} (at {refused.pointer})" if refused.pointer else refused.reason) from None
