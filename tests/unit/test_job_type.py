"""``@job_type``: one model decides what an actor takes, in wire names outside and in Python's inside."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import dramatiq
import pytest
from dramatiq import get_broker, set_broker
from dramatiq.brokers.stub import StubBroker
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from actors.runtime.broker import CallboardBroker, make_broker
from actors.runtime.errors import PayloadRefused, PermanentError
from actors.runtime.job_type import MIN_BACKOFF_MS, JobActor, JobType, job_type, job_types, payload_of
from models.errors import CallboardError, DataRefused


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Inner(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    zip_code: str


class Order(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    order_id: str = Field(min_length=1)
    how_many: int = 1
    size: Size = Size.SMALL
    due: datetime | None = None
    address: Inner | None = None


class Anything(BaseModel):
    value: Any


@pytest.fixture
def broker() -> Iterator[CallboardBroker]:
    """A global broker of this test's own; nothing is connected."""
    before = get_broker()
    broker = make_broker()
    set_broker(broker)
    yield broker
    set_broker(before)


@pytest.fixture
def order(broker: CallboardBroker) -> JobActor[..., Any]:
    @job_type(Order)
    @dramatiq.actor(actor_name="order", broker=broker)
    def order(
        order_id: str,
        how_many: int,
        size: Size,
        due: datetime | None,
        address: Inner | None,
    ) -> list[Any]:
        return [order_id, how_many, size, due, address]

    return order


@pytest.fixture
def anything(broker: CallboardBroker) -> JobActor[..., Any]:
    @job_type(Anything)
    @dramatiq.actor(actor_name="anything", broker=broker)
    def anything(value: Any) -> Any:
        return value

    return anything


DEFAULTS = {"how_many": 1, "size": "small", "due": None, "address": None}


# -- declaring


def test_it_is_found_by_its_actors_name(order: JobActor[..., Any], broker: CallboardBroker) -> None:
    @dramatiq.actor(broker=broker)
    def plain() -> None: ...

    assert list(job_types()) == ["order"]
    assert job_types()["order"].actor is order
    assert order.job_type.name == order.actor_name == "order"


def test_its_first_backoff_is_two_seconds_unless_it_names_one(
    order: JobActor[..., Any], broker: CallboardBroker
) -> None:
    @job_type(Anything)
    @dramatiq.actor(actor_name="quick", broker=broker, min_backoff=5)
    def quick(value: Any) -> None: ...

    assert order.options["min_backoff"] == MIN_BACKOFF_MS == 2000
    assert quick.options["min_backoff"] == 5


def test_the_decorators_order_is_checked() -> None:
    with pytest.raises(TypeError, match="above"):
        job_type(Anything)(lambda value: value)  # type: ignore[arg-type]


def missing_parameter(order_id: str) -> None: ...
def extra_parameter(value: Any, more: int) -> None: ...
def positional_only(value: Any, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "model", "named"),
    [
        (missing_parameter, Order, "how_many"),
        (extra_parameter, Anything, "more"),
        (positional_only, Anything, "value"),
    ],
    ids=["parameter missing", "parameter without field", "positional-only parameter"],
)
def test_a_model_that_does_not_fit_its_actor_is_refused_at_import(
    broker: CallboardBroker, function: Any, model: type[BaseModel], named: str
) -> None:
    actor: Any = dramatiq.actor(broker=broker)(function)
    with pytest.raises(TypeError, match=named):
        job_type(model)(actor)


def test_a_parameter_with_a_default_needs_no_field(broker: CallboardBroker) -> None:
    @job_type(Anything)
    @dramatiq.actor(actor_name="spare", broker=broker)
    def spare(value: Any, more: int = 5) -> int:
        return more

    assert spare(1) == 5


def test_the_schema_speaks_the_wires_names_and_closes_the_object(order: JobActor[..., Any]) -> None:
    schema = order.job_type.schema()
    assert set(schema["properties"]) == {"orderId", "howMany", "size", "due", "address"}
    assert schema["required"] == ["orderId"]
    assert schema["additionalProperties"] is False


# -- from the wire and back


def test_wire_names_outside_pythons_inside(order: JobActor[..., Any]) -> None:
    message = order.job_type.message({"orderId": "a", "howMany": 2, "address": {"zipCode": "1"}})
    assert message.kwargs == {**DEFAULTS, "order_id": "a", "how_many": 2, "address": {"zip_code": "1"}}
    assert order.job_type.payload_of(message.kwargs) == {
        "orderId": "a",
        "howMany": 2,
        "size": "small",
        "due": None,
        "address": {"zipCode": "1"},
    }


def test_what_is_stored_validates_again_to_the_same(order: JobActor[..., Any]) -> None:
    kind = order.job_type
    due = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    once = kind.kwargs_of({"orderId": "a", "due": due.isoformat(), "size": "large"}, wire=True)
    assert kind.kwargs_of(once, wire=False) == once
    assert order(**once)[2:4] == [Size.LARGE, due]


@pytest.mark.parametrize(
    ("payload", "pointers"),
    [
        ({}, ["/orderId"]),
        ({"orderId": ""}, ["/orderId"]),
        ({"orderId": "a", "howMany": "many", "size": "huge"}, ["/howMany", "/size"]),
        ({"orderId": "a", "colour": "red"}, ["/colour"]),
        ({"orderId": "a", "how_many": 2}, ["/how_many"]),
        ({"orderId": "a", "a/b~c": 2}, ["/a~1b~0c"]),
        ({"orderId": "a", "address": {"zipCode": "1", "street": "x"}}, ["/address/street"]),
        ({"orderId": "a", "address": {"zip_code": "1"}}, ["/address/zipCode", "/address/zip_code"]),
        ([], [""]),
        ("order", [""]),
        (None, [""]),
    ],
    ids=repr,
)
def test_a_payload_that_does_not_fit_is_refused_with_a_pointer_per_fault(
    order: JobActor[..., Any], payload: Any, pointers: list[str]
) -> None:
    with pytest.raises(PayloadRefused) as caught:
        order.job_type.message(payload)
    assert {pointer for pointer, _ in caught.value.faults} == set(pointers)
    assert caught.value.job_type == "order"
    assert str(caught.value).endswith("; nothing was stored")


def test_pythons_names_are_refused_on_the_wire_and_the_wires_in_python(order: JobActor[..., Any]) -> None:
    with pytest.raises(PayloadRefused):
        order.job_type.kwargs_of({"order_id": "a"}, wire=True)
    with pytest.raises(PayloadRefused):
        order.job_type.kwargs_of({"orderId": "a"}, wire=False)


# -- sending from Python: what .send() was given, as one mapping


def test_positional_and_keyword_arguments_are_one_payload(order: JobActor[..., Any], broker: CallboardBroker) -> None:
    given: Any = order.message("a", 3, size="large", due=None, address=None)
    checked = broker.checked_payload(given)
    assert checked.args == ()
    assert checked.kwargs == {**DEFAULTS, "order_id": "a", "how_many": 3, "size": "large"}


def test_the_models_defaults_hold_for_positional_arguments_too(
    order: JobActor[..., Any], broker: CallboardBroker
) -> None:
    assert broker.checked_payload(order.message(order_id="a")).kwargs == {**DEFAULTS, "order_id": "a"}
    assert broker.checked_payload(order.message("a")).kwargs == {**DEFAULTS, "order_id": "a"}


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(("a", 1, "small", None, None, 6), {}), (("a",), {"order_id": "b"}), (("a",), {"colour": "red"})],
    ids=["too many", "given twice", "unknown"],
)
def test_arguments_that_no_call_could_have_are_refused(
    order: JobActor[..., Any], broker: CallboardBroker, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(PayloadRefused):
        broker.checked_payload(order.message_with_options(args=args, kwargs=kwargs))


def test_unknown_keyword_arguments_are_named(order: JobActor[..., Any], broker: CallboardBroker) -> None:
    with pytest.raises(PayloadRefused) as caught:
        broker.checked_payload(order.message(order_id="a", colour="red"))
    assert [pointer for pointer, _ in caught.value.faults] == ["/colour"]


# -- what the API shows


def test_the_payload_of_a_row(order: JobActor[..., Any], broker: CallboardBroker) -> None:
    @dramatiq.actor(actor_name="plain", broker=broker)
    def plain(*args: Any, **kwargs: Any) -> None: ...

    assert payload_of("order", [], {"order_id": "a"})["orderId"] == "a"
    assert payload_of("plain", [1], {"a": 2}) == {"args": [1], "kwargs": {"a": 2}}
    assert payload_of("gone", (1,), {}) == {"args": [1], "kwargs": {}}
    # Sent by a stock producer, or for an older model: shown as it is.
    assert payload_of("order", [], {"old": 1}) == {"args": [], "kwargs": {"old": 1}}


# -- running


def test_the_actor_gets_what_the_model_makes(order: JobActor[..., Any]) -> None:
    order_id, how_many, size, due, address = order(order_id="a", due="2026-01-02T00:00:00Z", address={"zip_code": "1"})
    assert (order_id, how_many, size) == ("a", 1, Size.SMALL)
    assert due == datetime(2026, 1, 2, tzinfo=UTC)
    assert address == Inner.model_validate({"zipCode": "1"})


def test_a_payload_that_was_never_checked_fails_for_good(order: JobActor[..., Any]) -> None:
    with pytest.raises(PermanentError, match="/colour"):
        order(order_id="a", colour="red")


def test_a_type_error_of_the_actors_own_is_not_taken_for_a_wrong_payload(broker: CallboardBroker) -> None:
    @job_type(Anything)
    @dramatiq.actor(actor_name="broken", broker=broker)
    def broken(value: Any) -> None:
        raise TypeError("the actor's own")

    with pytest.raises(TypeError, match="the actor's own"):
        broken(value=1)


# -- data that JSON or Postgres cannot hold, behind a model that would let it pass


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


HAZARDS = {
    "set": {1, 2},
    "bytes": b"x",
    "NaN": float("nan"),
    "infinity": float("inf"),
    "NUL": "a\0b",
    "lone surrogate": "\ud800",
    "5,000 digits": 10**5000 - 1,
    "deep": deep(10_000),
    "very deep": deep(100_000),
    "datetime": datetime(2026, 1, 1, tzinfo=UTC),
    "decimal": Decimal("1.1"),
    "object": object(),
    "NUL in a key": {"a\0b": 1},
    "tuple as a key": {(1, 2): 1},
    "10 MB": "x" * 10_000_000,
}


@pytest.mark.parametrize("name", HAZARDS)
@pytest.mark.parametrize("where", ["itself", "in a list", "in an object"])
def test_hazards_in_a_field_of_any_type_are_refused(anything: JobActor[..., Any], name: str, where: str) -> None:
    """pydantic's serialiser would make a list of a set, and null of NaN, without a word."""
    hazard = HAZARDS[name]
    value = {"itself": hazard, "in a list": [1, hazard], "in an object": {"a": hazard}}[where]
    for wire in (True, False):
        with pytest.raises((DataRefused, PayloadRefused)) as caught:
            anything.job_type.kwargs_of({"value": value}, wire=wire)
        assert isinstance(caught.value, CallboardError)


class Numbers(BaseModel):
    number: float = 0
    whole: int = 0
    exact: Decimal = Decimal(0)


@pytest.mark.parametrize(
    "payload",
    [{"number": "nan"}, {"number": "inf"}, {"number": "1e400"}, {"number": "-Infinity"}, {"whole": "9" * 4000}],
    ids=["nan", "inf", "1e400", "-Infinity", "4,000 digits"],
)
def test_text_that_the_model_reads_as_a_number_that_json_lacks_is_refused(
    broker: CallboardBroker, payload: dict[str, str]
) -> None:
    @job_type(Numbers)
    @dramatiq.actor(actor_name="numbers", broker=broker)
    def numbers(number: float, whole: int, exact: Decimal) -> None: ...

    with pytest.raises(CallboardError):
        broker.enqueue(numbers.job_type.message(payload))


class Counted(BaseModel):
    number: int
    numbers: list[int | str] = []
    rate: float = 0.5
    when: datetime | None = None
    anything: Any = None


@pytest.mark.parametrize(
    ("payload", "faults"),
    [
        ({"number": "5"}, ["/number"]),
        ({"number": True}, ["/number"]),
        ({"number": 5.5}, ["/number"]),
        ({"number": 5.0, "rate": "0.5"}, ["/rate"]),
        ({"number": None, "when": 5}, ["/number", "/when"]),
    ],
)
def test_a_payload_on_the_wire_is_what_its_schema_says(payload: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(PayloadRefused) as refused:
        counting().kwargs_of(payload, wire=True)
    assert [pointer for pointer, _ in refused.value.faults] == faults


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    payload = {"number": 5.0, "numbers": [1, 2.0, "x"], "rate": 1, "when": "2030-01-31T12:00:00Z", "anything": [3.0]}
    kwargs = counting().kwargs_of(payload, wire=True)
    assert repr([kwargs["number"], kwargs["numbers"]]) == "[5, [1, 2, 'x']]"
    assert repr(kwargs["anything"]) == "[3.0]", "what the model does not call an integer stays as it is"


def counting() -> JobType:
    @job_type(Counted)
    @dramatiq.actor(actor_name="counted", broker=StubBroker())
    def counted(number: int, numbers: Any, rate: float, when: Any, anything: Any) -> None: ...

    return counted.job_type
