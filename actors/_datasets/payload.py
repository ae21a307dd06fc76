"""What ``POST /jobs`` takes as the payload of a ``data_processing`` job."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic.alias_generators import to_camel

Operation = Literal["profile", "aggregate", "filter"]
Function = Literal["sum", "avg", "min", "max", "count"]
Comparison = Literal["=", "!=", "<", "<=", ">", ">=", "in", "not in", "contains", "is null", "is not null"]

#: Values of one ``in``.
MAX_VALUES: Final = 1_000
#: Characters of a column's name; the header of a dataset keeps to it as well.
MAX_NAME: Final = 200

_LISTS: Final = ("in", "not in")
_NULLS: Final = ("is null", "is not null")
_SCALAR: Final[dict[str, Any]] = {"type": ["string", "number", "boolean"]}
_LIST: Final[dict[str, Any]] = {"type": "array", "items": _SCALAR, "minItems": 1, "maxItems": MAX_VALUES}
_NULL: Final[dict[str, Any]] = {"type": "null"}
_VALUE_SCHEMA: Final = {
    "anyOf": [_SCALAR, _LIST, _NULL],
    "default": None,
    "description": "what the cells are compared with; a list for in and not in",
}


def _for(name: str, *values: str, needs: str = "", **properties: Any) -> dict[str, Any]:
    """The schema of what must hold besides where the property ``name`` has one of these values."""
    return {
        "properties": {name: {"enum": list(values)}, **properties},
        "required": [name, needs] if needs else [name],
    }


# What the validators below say, as far as JSON Schema can say it: not that the names of figures differ.
_MEASURE_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        _for("op", "count"),
        _for("op", *get_args(Function), needs="column", column={"type": "string"}),
    ]
}
_CONDITION_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        _for("op", *_NULLS, value=_NULL),
        _for("op", *_LISTS, needs="value", value={"type": "array"}),
        _for("op", "contains", needs="value", value={"type": "string"}),
        _for("op", "=", "!=", "<", "<=", ">", ">=", needs="value", value=_SCALAR),
    ]
}
_PAYLOAD_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        _for("operation", "profile", groupBy=_NULL, measures=_NULL),
        _for("operation", "filter", groupBy=_NULL, measures=_NULL, needs="where", where={"type": "array"}),
        _for("operation", "aggregate", needs="groupBy", groupBy={"type": "array"}),
        _for("operation", "aggregate", needs="measures", measures={"type": "array"}),
    ]
}

Name = Annotated[str, Field(max_length=MAX_NAME)]


class _Part(BaseModel):
    # Defaults too: a validator must see what was left out.
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, validate_default=True)


class Measure(_Part):
    """One figure per group."""

    model_config = ConfigDict(json_schema_extra=_MEASURE_SCHEMA)

    op: Function
    column: Name | None = Field(None, description="may be left out for count: rows")
    label: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | None = Field(
        None, alias="as", description="the figure's name in the result; op_column unless given"
    )

    @field_validator("column")
    @classmethod
    def _given(cls, column: str | None, info: ValidationInfo) -> str | None:
        if column is None and info.data.get("op", "count") != "count":
            raise ValueError(f"is required for {info.data['op']}")
        return column

    @property
    def name(self) -> str:
        """Its name in the result."""
        return self.label or (self.op if self.column is None else f"{self.op}_{self.column}")


class Condition(_Part):
    """One comparison; all of them must hold. A comparison with an empty cell never does, ``is null`` apart."""

    model_config = ConfigDict(json_schema_extra=_CONDITION_SCHEMA)

    column: Name
    op: Comparison
    value: Annotated[Any, WithJsonSchema(_VALUE_SCHEMA)] = None

    @field_validator("value")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:
        op = info.data.get("op")
        if op is None:
            return value
        if op in _NULLS:
            if value is not None:
                raise ValueError(f"does not belong to '{op}'")
        elif op in _LISTS:
            if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
                raise ValueError(f"must be a list of 1 to {MAX_VALUES:,} values for '{op}'")
            for item in value:
                _check_scalar(item)
        elif op == "contains" and not isinstance(value, str):
            raise ValueError("must be text for 'contains'")
        else:
            _check_scalar(value)
        return value


def _check_scalar(value: Any) -> None:
    if value is None:
        raise ValueError("must not be null: use 'is null' or 'is not null'")
    if not isinstance(value, str | int | float | bool):
        raise ValueError("must be text, a number, true or false")


class DataPayload(_Part):
    """A dataset, what to do with it, and what that needs."""

    model_config = ConfigDict(json_schema_extra=_PAYLOAD_SCHEMA)

    data_id: UUID = Field(description="a dataset of PUT /datasets/{dataId}")
    operation: Operation = Field(
        description="profile: what is in each column · aggregate: figures per group · filter: rows, as a new dataset"
    )
    group_by: (
        Annotated[list[Name], Field(min_length=1, max_length=20, json_schema_extra={"uniqueItems": True})] | None
    ) = Field(None, description="columns; for aggregate")
    measures: Annotated[list[Measure], Field(min_length=1, max_length=100)] | None = Field(
        None, description="figures, as {op, column, as?}; for aggregate: sum, avg, min, max, count"
    )
    where: Annotated[list[Condition], Field(min_length=1, max_length=50)] | None = Field(
        None, description="only rows for which every {column, op, value} holds; filter needs it"
    )

    @field_validator("group_by")
    @classmethod
    def _groups(cls, group_by: list[str] | None, info: ValidationInfo) -> list[str] | None:
        _belongs(group_by, info)
        if group_by is not None and len(set(group_by)) < len(group_by):
            raise ValueError("names a column twice")
        return group_by

    @field_validator("measures")
    @classmethod
    def _figures(cls, measures: list[Measure] | None, info: ValidationInfo) -> list[Measure] | None:
        _belongs(measures, info)
        # "group_by" is missing there when it was itself refused.
        if info.data.get("operation") == "aggregate" and measures is None and info.data.get("group_by", True) is None:
            raise ValueError("aggregate needs measures or groupBy")
        names = [*(info.data.get("group_by") or ()), *(measure.name for measure in measures or ())]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two columns of the result would be named {name[:100]!r}: say as")
        return measures

    @field_validator("where")
    @classmethod
    def _conditions(cls, where: list[Condition] | None, info: ValidationInfo) -> list[Condition] | None:
        if where is None and info.data.get("operation") == "filter":
            raise ValueError("filter needs where")
        return where


def _belongs(value: object, info: ValidationInfo) -> None:
    operation = info.data.get("operation")
    if value is not None and operation not in (None, "aggregate"):
        raise ValueError(f"belongs to aggregate, not to {operation}")
