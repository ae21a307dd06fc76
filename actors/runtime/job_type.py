"""``@job_type``: an actor with a payload model is a job type; one file is all it takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from dramatiq import Actor, Message, get_broker
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from actors.runtime.errors import PayloadRefused, PermanentError
from models.json_data import MAX_ARGS_BYTES, encode

P = ParamSpec("P")
R = TypeVar("R")

#: Milliseconds before the second attempt of a job type that names no ``min_backoff``.
MIN_BACKOFF_MS = 2_000


class JobType:
    """A name on the wire, the model of its payload, and the actor that does it."""

    def __init__(self, actor: Actor[Any, Any], model: type[BaseModel]) -> None:
        self.name = actor.actor_name
        self.actor = actor
        self.model = model

    def schema(self) -> dict[str, Any]:
        """The payload's JSON Schema (2020-12) in wire names; unknown fields are refused."""
        return {**self.model.model_json_schema(by_alias=True), "additionalProperties": False}

    def message(self, payload: Mapping[str, Any], **options: Any) -> Message[Any]:
        """A message from a payload in wire names.

        Raises:
          PayloadRefused: with a JSON pointer per fault.
        """
        return self.actor.message_with_options(kwargs=self.kwargs_of(payload, wire=True), **options)

    def kwargs_of(self, payload: Any, *, wire: bool) -> dict[str, Any]:
        """Validate a payload, in wire names or Python's, and return the actor's keyword arguments as JSON data.

        Raises:
          DataRefused: it is no JSON data. PayloadRefused: it does not fit the model.
        """
        # Before the model's serialiser sees it: that would make a list of a set, and null of NaN, without a word.
        text = encode(payload, max_bytes=MAX_ARGS_BYTES)
        try:
            valid = self._from_wire(payload, text) if wire else self._validated(payload)
            return valid.model_dump(mode="json", by_alias=False)
        except (PydanticSerializationError, RecursionError) as error:
            raise PayloadRefused(
                self.name, [("", f"{self.model.__name__} cannot be written as JSON: {error}")]
            ) from None

    def payload_of(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments back in wire names."""
        return self._validated(kwargs).model_dump(mode="json", by_alias=True)

    def _validated(self, kwargs: Any) -> BaseModel:
        try:
            return self.model.model_validate(kwargs, by_alias=False, by_name=True, extra="forbid")
        except ValidationError as error:
            raise self._refused(error) from None

    def _from_wire(self, payload: Any, text: str) -> BaseModel:
        """What JSON Schema says of the model, and no more: "5" is no integer, but 5.0 is one."""
        try:
            return self._strictly(text)
        except ValidationError as error:
            whole = [
                fault["loc"] for fault in error.errors() if fault["type"] == "int_type" and _is_whole(fault["input"])
            ]
            if not whole:
                raise self._refused(error) from None
        for place in whole:
            payload = _with_integer(payload, place)
        try:
            return self._strictly(encode(payload, max_bytes=MAX_ARGS_BYTES))
        except ValidationError as error:
            raise self._refused(error) from None

    def _strictly(self, text: str) -> BaseModel:
        return self.model.model_validate_json(text, strict=True, by_alias=True, by_name=False, extra="forbid")

    def _refused(self, error: ValidationError) -> PayloadRefused:
        faults = [(_pointer(fault["loc"]), fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
        return PayloadRefused(self.name, faults)

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Positional and keyword arguments as one mapping by name. Raises PayloadRefused."""
        try:
            # Partly: what is missing has a default in the model, or is named by it.
            return dict(inspect.signature(self.actor.fn).bind_partial(*args, **kwargs).arguments)
        except TypeError as error:
            if args:
                raise PayloadRefused(self.name, [("", str(error))]) from None
            return dict(kwargs)  # the model names each unknown field


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _with_integer(value: Any, place: tuple[int | str, ...]) -> Any:
    """The value with a float at this place as an integer; the place may name alternatives of unions, too."""
    if not place:
        return int(value) if _is_whole(value) else value
    key, rest = place[0], place[1:]
    if isinstance(value, Mapping) and key in value:
        return {**value, key: _with_integer(value[key], rest)}
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return [*value[:key], _with_integer(value[key], rest), *value[key + 1 :]]
    return _with_integer(value, rest)


class SessionSender(Generic[P, R]):
    """An actor bound to a caller's session: what it sends joins that transaction."""

    def __init__(self, actor: Actor[P, R], session: Any) -> None:
        self._actor = actor
        self._session = session

    def send(self, *args: P.args, **kwargs: P.kwargs) -> Message[R]:
        """As the actor's ``send``, in the session's transaction."""
        return self.send_with_options(args=args, kwargs=kwargs)

    def send_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Message[R]:
        """As the actor's ``send_with_options``, in the session's transaction."""
        from actors.runtime.sending import send_many

        message = self._actor.message_with_options(args=args, kwargs=kwargs, **options)
        return send_many([message], session=self._session)[0]


class JobActor(Actor[P, R]):
    """An actor made with :func:`job_type`."""

    job_type: JobType

    def using(self, session: Any) -> SessionSender[P, R]:
        """Send within the transaction of a SQLAlchemy Session or psycopg connection."""
        return SessionSender(self, session)


def job_type(model: type[BaseModel]) -> Callable[[Actor[P, R]], JobActor[P, R]]:
    """Make an actor a job type: POSTable under its ``actor_name``, its payload validated wherever it is sent.

    Args:
      model: a pydantic model whose fields are the actor's keyword arguments; aliases are the wire names.

    Raises:
      TypeError: at import, when the model's fields and the actor's parameters differ.
    """

    def decorate(actor: Actor[P, R]) -> JobActor[P, R]:
        if not isinstance(actor, Actor):
            raise TypeError("@job_type goes above @dramatiq.actor")
        _compare(model, actor)
        actor.__class__ = JobActor
        assert isinstance(actor, JobActor)
        actor.job_type = kind = JobType(actor, model)
        actor.options.setdefault("min_backoff", MIN_BACKOFF_MS)
        function = actor.fn

        @functools.wraps(function)
        def validated(*args: P.args, **kwargs: P.kwargs) -> R:
            # What a stock producer sent was never checked; another attempt would not mend it.
            try:
                checked = kind._validated(kind.bound(args, kwargs))
            except PayloadRefused as refused:
                raise PermanentError(str(refused).removesuffix("; nothing was stored")) from None
            result: R = function(**{name: getattr(checked, name) for name in model.model_fields})
            return result

        actor.fn = validated
        return actor

    return decorate


def _compare(model: type[BaseModel], actor: Actor[Any, Any]) -> None:
    parameters = inspect.signature(actor.fn).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    if unnamed := sorted(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY):
        raise TypeError(f"{actor.actor_name}: payload fields are given by name, these parameters cannot be: {unnamed}")
    names = {p.name for p in parameters}
    if missing := sorted(set(model.model_fields) - names):
        raise TypeError(f"{actor.actor_name}: {model.__name__} has fields that the actor does not take: {missing}")
    required = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
    if missing := sorted(required - set(model.model_fields)):
        raise TypeError(f"{actor.actor_name}: the actor needs parameters that {model.__name__} lacks: {missing}")


def job_types() -> dict[str, JobType]:
    """Every job type of the global broker by name, sorted."""
    actors = get_broker().actors
    return {name: actor.job_type for name, actor in sorted(actors.items()) if isinstance(actor, JobActor)}


def payload_of(actor_name: str, args: list[Any] | tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A row's payload as the API shows it: wire names for a job type, ``{"args", "kwargs"}`` for any other actor."""
    actor = get_broker().actors.get(actor_name)
    if isinstance(actor, JobActor):
        try:
            return actor.job_type.payload_of(actor.job_type.bound(tuple(args), kwargs))
        except PayloadRefused:
            pass  # sent by a stock producer, or by an older model
    return {"args": list(args), "kwargs": dict(kwargs)}


__all__ = ["JobActor", "JobType", "job_type", "job_types", "payload_of"]
