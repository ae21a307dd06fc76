"""The write path: row first, then the bell (DESIGN section 4)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from dramatiq import Message, get_broker
from sqlalchemy import Connection, Text, exc, func, select, true, tuple_

from actors.runtime.messages import TRANSIENT, Offer, job_id_of, offer_of, tick_id_of
from actors.runtime.options import stock_option_fault, take_options
from models.arrays import parameters, rows_of
from models.engine import is_psycopg, psycopg_dialect, transaction, translation
from models.errors import DataRefused, OptionRefused, UniqueKeyBusy, UnknownTenant
from models.json_data import MAX_ARGS_BYTES, MAX_DEPTH, encode
from models.ledger import enqueue, free_expired_slots, hold_waiting
from models.rows import Row, all_rows
from models.tables import jobs, tenants

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from actors.runtime.broker import CallboardBroker

#: What a job belongs to whose sender names no tenant.
DEFAULT_TENANT = "default"
#: How often an insert is repeated when the holder of its unique key ended in between.
_ROUNDS = 5
#: How often a bulk is inserted anew after a deadlock. Keys are taken in one order, but a key whose holder ended in
#: between is taken after the others.
_TRIES = 4
#: Levels of a message's options.
OPTIONS_DEPTH = 400

_DEADLOCK = "40P01"

Execute = Callable[[Any, Mapping[str, Any]], list[Row]]
#: The inserted rows, and job id → holder's id of the duplicates.
Inserted = tuple[list[Row], dict[UUID, UUID]]


@dataclass
class NewJob:
    """One job on its way into the ledger, checked and encoded."""

    message: Message[Any]
    row: dict[str, Any]  # MESSAGE_COLUMNS plus what only the insert needs
    columns: dict[str, Any]  # the parameters of models.ledger.enqueue, one element each
    delay: Any = None  # as it was asked for, for the signals


def prepare(
    broker: CallboardBroker, message: Message[Any], delay: Any, *, offer: bool, tenant_id: str, checked: bool = True
) -> NewJob:
    """Check and encode one message.

    Args:
      offer: the sender rings for it. checked: compare its payload with the job type's model.

    Raises:
      DataRefused, OptionRefused, PayloadRefused: nothing was stored.
    """
    options = {name: value for name, value in message.options.items() if name not in TRANSIENT}
    if delay is not None:
        options["delay"] = delay
    asked = take_options(options)
    if fault := stock_option_fault(options):
        raise OptionRefused(*fault)
    actor = broker.actors.get(message.actor_name)
    valid = broker.checked_payload(message) if checked else message
    job_id, replaced = job_id_of(message.message_id)
    if tick := tick_id_of(message.actor_name, message.options.get("scheduled_at", "")):
        job_id, replaced = tick, False
    if replaced:
        options["original_message_id"] = message.message_id
    priority = asked.priority
    if priority is None:
        # Dramatiq takes any integer for an actor's priority; the ends of our scale stand for what lies beyond.
        priority = max(-10, min(10, actor.priority)) if actor is not None else 0
    encoded = {
        "args": _encoded("args", list(valid.args)),
        "kwargs": _encoded("kwargs", valid.kwargs),
        # A pipeline nests one stage in the other, so options may go deeper than any payload.
        "options": _encoded("options", options, max_depth=OPTIONS_DEPTH),
    }
    row = {
        "id": job_id,
        "tenant_id": asked.tenant_id or tenant_id,
        "actor": message.actor_name,
        "queue": message.queue_name,
        "priority": priority,
        "args": valid.args,
        "kwargs": valid.kwargs,
        "options": options,
        "message_timestamp": message.message_timestamp,
    }
    columns = {
        **row,
        **encoded,
        "max_attempts": asked.max_attempts or broker.max_attempts_of(actor, options),
        "run_at": asked.run_at.isoformat() if asked.run_at else None,
        "delay_ms": asked.delay_ms,
        "unique_key": asked.unique_key,
        "unique_scope": asked.unique_scope,
        "unique_for_ms": asked.unique_for_ms,
        "offer": offer,
    }
    return NewJob(valid.copy(message_id=str(job_id)), row, columns, delay)


def _encoded(name: str, value: Any, max_depth: int = MAX_DEPTH) -> str:
    try:
        return encode(value, max_bytes=MAX_ARGS_BYTES, max_depth=max_depth)
    except DataRefused as refused:
        raise DataRefused(refused.reason, f"/{name}{refused.pointer}") from None


def insert_jobs(execute: Execute, new: Sequence[NewJob]) -> Inserted:
    """Insert rows; who finds its unique key taken gets the holder's id instead.

    Args:
      execute: runs one statement on the connection that the rows belong to, in one transaction if there are more
        than one.

    Returns: the inserted rows (EVENT_COLUMNS and dispatch), and job id → holder's id of the duplicates.

    Raises:
      UnknownTenant, UniqueKeyBusy: nothing was stored if the caller rolls back.
    """
    waiting = list(new)
    inserted: list[Row] = []
    duplicates: dict[UUID, UUID] = {}
    for _ in range(_ROUNDS):
        columns = {name: [job.columns[name] for job in waiting] for name in waiting[0].columns}
        rows = execute(enqueue(), parameters("new", **columns))
        inserted += rows
        present = {row["id"] for row in rows}
        waiting = [job for job in waiting if job.columns["id"] not in present]
        if not waiting:
            return inserted, duplicates
        waiting = _resolve(execute, waiting, duplicates)
        if not waiting:
            return inserted, duplicates
    raise UniqueKeyBusy(f"unique key {waiting[0].columns['unique_key']!r} changes hands too fast; nothing was stored")


def _resolve(execute: Execute, waiting: list[NewJob], duplicates: dict[UUID, UUID]) -> list[NewJob]:
    """Why rows were not inserted: known id, taken key, or unknown tenant; returns those to try once more."""
    wanted = {job.columns["tenant_id"] for job in waiting}
    known = {row["id"] for row in execute(select(tenants.c.id).where(tenants.c.id.in_(sorted(wanted))), {})}
    if unknown := sorted(wanted - known):
        raise UnknownTenant(f"there is no tenant {unknown[0]!r}; nothing was stored")
    stored = execute(select(jobs.c.id).where(jobs.c.id.in_([job.columns["id"] for job in waiting])), {})
    here = {row["id"] for row in stored}
    keyed = [job for job in waiting if job.columns["id"] not in here]
    keys = [(job.columns["tenant_id"], job.columns["unique_key"]) for job in keyed if job.columns["unique_key"]]
    if keys:
        slots = parameters("slot", tenant_id=[k[0] for k in keys], key=[k[1] for k in keys])
        execute(free_expired_slots(), slots)
        slot = rows_of("slot", tenant_id=Text(), key=Text())
        if any(job.columns["unique_scope"] == "waiting" for job in keyed):
            execute(hold_waiting(), slots)
        held = execute(
            select(jobs.c.id, jobs.c.tenant_id, jobs.c.unique_slot).where(
                tuple_(jobs.c.tenant_id, jobs.c.unique_slot).in_(select(slot.c.tenant_id, slot.c.key))
            ),
            slots,
        )
        holders = {(row["tenant_id"], row["unique_slot"]): row["id"] for row in held}
        for job in list(keyed):
            holder = holders.get((job.columns["tenant_id"], job.columns["unique_key"]))
            if holder is not None:
                duplicates[job.columns["id"]] = holder
                keyed.remove(job)
    return keyed


def store(broker: CallboardBroker, new: Sequence[NewJob], session: Any) -> dict[UUID, UUID]:
    """Insert on the right connection and arrange for the bell. Returns the duplicates (job id → holder)."""
    if not new:
        return {}
    if session is None:
        inserted, duplicates = _on_our_own(broker, new)
        ring(broker, new, inserted)
        return duplicates
    if (orm_session := _orm_session(session)) is not None:
        from actors.runtime.session_bell import after_commit

        connection = orm_session.connection()
        inserted, duplicates = _on_the_callers(broker, _Caller(connection), new)
        after_commit(orm_session, connection, lambda: ring(broker, new, inserted))
        return duplicates
    if is_psycopg(session):
        return _on_the_callers(broker, _PsycopgCaller(session), new)[1]
    if hasattr(session, "sync_session"):
        raise TypeError("an AsyncSession cannot be used here yet as a session; use its sync_session inside run_sync")
    raise TypeError(f"session must be a SQLAlchemy Session or a psycopg connection, not {type(session).__name__}")


def offers_itself(session: Any) -> bool:
    """Whether the sender rings after its commit; on a bare connection nobody tells us of it, so the relay rings."""
    return session is None or _orm_session(session) is not None


def _orm_session(session: Any) -> Session | None:
    """The Session itself, also out of a scoped_session; a sender without one never imports the ORM."""
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is None:
        return None
    if isinstance(session, orm.scoped_session):
        session = session()
    return session if isinstance(session, orm.Session) else None


def ring(broker: CallboardBroker, new: Iterable[NewJob], inserted: Iterable[Mapping[str, Any]]) -> None:
    """Push what is due now and announce all of it."""
    rows = {row["id"]: row for row in inserted}
    offers: list[Offer] = []
    for job in new:
        stored = rows.get(job.columns["id"])
        if stored is not None and stored["dispatch"]:
            # From the text that was stored: the caller may have changed its arguments since.
            data = {name: json.loads(job.columns[name]) for name in ("args", "kwargs", "options")}
            offer = {**job.row, **data, "dispatch": stored["dispatch"], "offered_at": stored["updated_at"]}
            offers.append(offer_of(offer))
    broker.bell.ring(offers)
    broker.bell.announce(rows.values())


def _on_our_own(broker: CallboardBroker, new: Sequence[NewJob]) -> Inserted:
    engine = broker.resources.engine
    # One row is one statement; several are one transaction, so that a refusal stores none of them.
    engine = engine if len(new) == 1 else transaction(engine)

    def insert() -> Inserted:
        with engine.begin() as connection:
            return insert_jobs(lambda statement, values: all_rows(connection.execute(statement, values)), new)

    def insert_on_a_living_connection() -> Inserted:
        try:
            return insert()
        except exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # It died in the pool, and with it all the others there. Should the rows have been stored before their
            # connection broke, the same ids are found and left alone, and the relay rings for them.
            return insert()

    return _undeadlocked(insert_on_a_living_connection)


def _undeadlocked(insert: Callable[[], Inserted]) -> Inserted:
    """Insert, and again after a deadlock: what was inserted by then has been rolled back. Errors are our own."""
    tries = _TRIES
    while True:
        tries -= 1
        try:
            return insert()
        except Exception as error:
            if not (isinstance(error, exc.DBAPIError) or hasattr(error, "sqlstate")):  # psycopg's own has one
                raise
            if not (tries and _sqlstate(error) == _DEADLOCK):
                raise explained(error) from error


class _Caller:
    """A caller's SQLAlchemy connection, in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def savepoint(self) -> AbstractContextManager[Any]:
        return self._connection.begin_nested()

    def execute(self, statement: Any, values: Mapping[str, Any], renames: dict[str, str]) -> list[Row]:
        result = self._connection.execute(statement, values, execution_options={"schema_translate_map": renames})
        return all_rows(result)


class _PsycopgCaller:
    """A caller's bare psycopg connection, in the caller's transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def savepoint(self) -> AbstractContextManager[Any]:
        if not self._connection.autocommit:
            # Were none open, psycopg would make this a transaction of its own, and commit it.
            self._connection.execute("SELECT 1")
        savepoint: AbstractContextManager[Any] = self._connection.transaction()
        return savepoint

    def execute(self, statement: Any, values: Mapping[str, Any], renames: dict[str, str]) -> list[Row]:
        from psycopg.rows import dict_row

        compiled = statement.compile(
            dialect=psycopg_dialect(),
            schema_translate_map=renames,
            render_schema_translate=True,
            compile_kwargs={"render_postcompile": True},
        )
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(str(compiled), {**compiled.params, **values})
            rows: list[Row] = cursor.fetchall() if cursor.description else []
            return rows


def _on_the_callers(broker: CallboardBroker, caller: _Caller | _PsycopgCaller, new: Sequence[NewJob]) -> Inserted:
    """Insert in the caller's transaction, within a savepoint: a refusal leaves that usable and as it was.

    A unique key may be held by a transaction that is open elsewhere: it is waited for 2 s, and the caller's own
    setting is put back.
    """
    renames = translation(broker.resources.settings)
    keyed = any(job.columns["unique_key"] for job in new)

    def insert() -> Inserted:
        with caller.savepoint():
            before = caller.execute(select(func.current_setting("lock_timeout").label("was")), {}, {}) if keyed else []
            if keyed:
                caller.execute(select(func.set_config("lock_timeout", "2s", true())), {}, {})
            done = insert_jobs(lambda statement, values: caller.execute(statement, values, renames), new)
            for row in before:
                caller.execute(select(func.set_config("lock_timeout", row["was"], true())), {}, {})
            return done

    return _undeadlocked(insert)


def _sqlstate(error: Any) -> str:
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""


def explained(error: Any) -> Exception:
    """Our own error for what Postgres refused, or the error itself."""
    original = getattr(error, "orig", error)
    state = _sqlstate(error)
    if state in ("55P03", _DEADLOCK):
        return UniqueKeyBusy()
    if state.startswith("22") or isinstance(error, exc.DataError):
        return DataRefused(f"Postgres refuses the data: {str(original).splitlines()[0]}")
    if state in ("42P01", "3F000"):
        return RuntimeError("Callboard's tables are missing: run './callboard migrate' (alembic upgrade head)")
    kept: Exception = error
    return kept


def send_many(messages: Iterable[Message[Any]], session: Any = None) -> list[Message[Any]]:
    """Send any number of messages in one transaction; all are accepted, or none.

    Args:
      messages: built with ``actor.message()`` or ``actor.message_with_options()``; ``delay`` (ms or timedelta) may
        stand among the options.
      session: a SQLAlchemy Session or psycopg connection whose transaction the jobs join: they exist when it
        commits and never did when it rolls back. Without one they exist when this returns.

    Returns: the messages in order; one whose ``unique_key`` was taken carries the holder's id and the option
    ``duplicate``.

    Raises:
      DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy, UnknownTenant: nothing was stored.
    """
    broker = our_broker()
    return broker.enqueue_many([(message, None) for message in messages], session=session)


async def asend_many(messages: Iterable[Message[Any]], session: Any = None) -> list[Message[Any]]:
    """:func:`send_many` that does not block the event loop."""
    listed = list(messages)
    return await asyncio.to_thread(send_many, listed, session)


def our_broker() -> CallboardBroker:
    """The global broker. Raises RuntimeError, naming what is there, when it is not Callboard's."""
    from actors.runtime.broker import CallboardBroker

    broker = get_broker()
    if not isinstance(broker, CallboardBroker):
        raise RuntimeError(
            f"the global Dramatiq broker is a {type(broker).__name__}, not Callboard's: import actors before anything "
            "calls dramatiq.set_broker(), and set no other"
        )
    return broker
