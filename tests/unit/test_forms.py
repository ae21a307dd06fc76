"""The send form: what a schema becomes, and what a browser's text becomes."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from web.forms import ABSENT, Form, form_for


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    deep: int


class Payload(BaseModel):
    text: str = Field(min_length=1, max_length=200, description="some words")
    number: int = Field(ge=0, le=60_000)
    ratio: float = 0.5
    flag: bool = True
    colour: Colour = Colour.BLUE
    level: Literal[1, 2] = 1
    nested: Inner | None = None
    anything: Any = None
    either: int | str | None = None
    many: list[int] = Field(default_factory=list)
    long: str = Field("", max_length=100_000)
    maybe: str | None = None


@pytest.fixture
def form() -> Form:
    return form_for("some-type", Payload.model_json_schema())


def by_key(form: Form) -> dict[str, Any]:
    return {field.key: field for field in form.payload}


def test_each_property_gets_the_control_that_fits(form: Form) -> None:
    kinds = {field.key: field.kind for field in form.payload}
    assert kinds == {
        "text": "text",
        "number": "number",
        "ratio": "number",
        "flag": "boolean",
        "colour": "choice",
        "level": "choice",
        "nested": "json",
        "anything": "json",
        "either": "json",
        "many": "json",
        "long": "lines",
        "maybe": "text",
    }


def test_limits_defaults_and_descriptions_come_from_the_schema(form: Form) -> None:
    fields = by_key(form)
    assert fields["text"].limits == {"minlength": 1, "maxlength": 200}
    assert fields["text"].help == "some words"
    assert fields["text"].required
    assert fields["number"].limits == {"min": 0, "max": 60_000, "step": "1"}
    assert fields["number"].help == "0 to 60,000"
    assert fields["ratio"].value == "0.5"
    assert fields["ratio"].limits == {"step": "any"}
    assert fields["flag"].value == "true"
    assert fields["colour"].choices == ["red", "blue"]
    assert fields["colour"].value == "blue"
    assert not fields["maybe"].required
    assert {field.key for field in form.options} == {"delay", "priority", "max_attempts", "unique_key"}


def test_text_becomes_json_values_and_empty_fields_are_left_out(form: Form) -> None:
    posted = {
        "p.text": "a\r\nb", "p.number": " 12 ", "p.ratio": "1e-3", "p.colour": "red", "p.level": "2",
        "p.nested": '{"deep": 1}', "p.anything": "", "p.either": '"x"', "p.many": "[1, 2]", "p.long": "", "p.maybe": "",
        "o.delay": "50", "o.priority": "-3", "o.max_attempts": "", "o.unique_key": "k",
    }  # fmt: skip
    payload, options = form.read(posted)
    assert payload == {
        "text": "a\nb", "number": 12, "ratio": 0.001, "flag": False, "colour": "red", "level": 2,
        "nested": {"deep": 1}, "either": "x", "many": [1, 2],
    }  # fmt: skip
    assert options == {"delay": 50, "priority": -3, "unique_key": "k"}
    assert not form.faulty
    assert form.options_used


@pytest.mark.parametrize("text", ["abc", "1.5", "1_000", "٣", "1e3", "9" * 301, "NaN", "0x10"])
def test_what_is_no_whole_number_stays_text_for_the_model_to_refuse(form: Form, text: str) -> None:
    payload, _ = form.read({"p.number": text})
    assert payload["number"] == text
    assert by_key(form)["number"].value == text
    assert not form.faulty


@pytest.mark.parametrize("text", ["{", "nope", "1e400", "NaN", '"\\ud800"', "9" * 5_000, "[" * 10_000, '{"a":1,"a":2}'])
def test_what_is_no_json_is_a_fault_of_the_field(form: Form, text: str) -> None:
    payload, _ = form.read({"p.anything": text})
    assert "anything" not in payload
    (fault,) = by_key(form)["anything"].faults
    assert fault
    assert by_key(form)["anything"].value == text
    assert form.faulty == 1


def test_faults_land_at_the_field_that_their_pointer_names(form: Form) -> None:
    form.refuse("/number", "too large")
    form.refuse("/nested/deep", "not a number")
    form.refuse("", "all of it")
    form.refuse("/gone", "unknown")
    form.refuse_option("priority", "too high")
    form.refuse_option("backoff", "not here")
    fields = by_key(form)
    assert fields["number"].faults == ["too large"]
    assert fields["nested"].faults == ["not a number (at /deep)"]
    assert form.faults == ["all of it", "/gone: unknown", "backoff: not here"]
    assert form.faulty == 6


def test_a_required_text_may_be_empty_and_a_required_number_may_not(form: Form) -> None:
    payload, _ = form.read({"p.text": "", "p.number": ""})
    assert payload["text"] == ""
    assert "number" not in payload
    assert by_key(form)["number"].read(None) is ABSENT


def test_a_schema_that_refers_to_itself_is_an_open_field() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert form_for("t", schema).payload[0].kind == "json"
