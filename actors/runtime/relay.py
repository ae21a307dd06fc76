"""The relay: due rows → Redis, and again what Redis lost (DESIGN section 4, "One sweep repairs all")."""

from __future__ import annotations

import dataclasses
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dramatiq.errors import DecodeError
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Connection

from actors.runtime.adoption import adopt, bury
from actors.runtime.bell import push
from actors.runtime.keys import LIST_CAP, NAMESPACE, list_key, messages_key
from actors.runtime.logs import get_logger
from actors.runtime.messages import MARK, decode, offer_of
from actors.runtime.options import without_faults
from models.offers import offer_again, offer_due, waiting_lists, withdraw_offers
from models.rows import Row, all_rows

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("relay")

#: Rows per statement and list.
BATCH = 500
#: Seconds after which an offer of an empty list counts as lost.
SILENCE_S = 2.0
#: Seconds by which a list's head must be younger than an offer that should stand before it.
OVERTAKEN_S = 10.0
#: Says that this Redis still has what it had: gone after FLUSHALL.
EPOCH_KEY = "callboard:epoch"


class Relay:
    """One duty of maintenance; several may run at once."""

    def __init__(self, broker: CallboardBroker) -> None:
        self._broker = broker
        self._epoch: tuple[Any, Any] | None = None

    def run_once(self) -> int:
        """Offer what is due; returns how many offers were made. With Redis away nothing is offered."""
        try:
            fresh = self._is_new_epoch()
            return self._adopt_delayed() + self._offer_due() + self._sweep(0.0 if fresh else SILENCE_S)
        except RedisError as error:
            log.warning("relay.waits", error=str(error))
            return 0

    def _is_new_epoch(self) -> bool:
        """Whether Redis lost its memory since the last pass: restarted, replaced, or flushed. Only a hurry-up."""
        redis: Any = self._broker.resources.redis
        redis.set(EPOCH_KEY, uuid.uuid4().hex, nx=True)
        try:
            info = redis.info()
        except ResponseError:
            info = {}  # a Redis that hides it; the sweep needs no epoch, only more time
        epoch = (info.get("run_id"), redis.get(EPOCH_KEY))
        before, self._epoch = self._epoch, epoch
        if before is None and info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
            log.warning("redis.evicts", maxmemory_policy=info["maxmemory_policy"], wanted="noeviction")
        if before is not None and before != epoch:
            log.warning("redis.new_epoch")
            return True
        return False

    def _offer_due(self) -> int:
        made = 0
        with self._broker.resources.engine.connect() as connection:
            for queue, band in connection.execute(waiting_lists(offered=False)).all():
                room = LIST_CAP - int(self._broker.resources.redis.llen(list_key(queue, band)))
                while room > 0:
                    where = {"in_queue": queue, "in_band": band, "room": min(room, BATCH)}
                    rows = all_rows(connection.execute(offer_due(), where))
                    self._push(connection, rows)
                    made += len(rows)
                    room -= BATCH
                    if len(rows) < BATCH:
                        break
        return made

    def _sweep(self, silence_s: float) -> int:
        """Offer again: rows whose list is empty, or whose list's head was offered long after them."""
        made = 0
        with self._broker.resources.engine.connect() as connection:
            for queue, band in connection.execute(waiting_lists(offered=True)).all():
                head = self._head_offered(queue, band)
                before = None if head is None else head - timedelta(seconds=OVERTAKEN_S)
                where = {"in_queue": queue, "in_band": band, "room": BATCH, "silence_s": silence_s, "before": before}
                rows = all_rows(connection.execute(offer_again(), where))
                if rows:
                    self._push(connection, rows)
                    log.info("jobs.offered_again", queue=queue, jobs=len(rows), empty=head is None)
                    made += len(rows)
        return made

    def _push(self, connection: Connection, rows: list[Row]) -> None:
        """Push in order of time; what finds no room is as if it had not been offered."""
        offers = map(offer_of, sorted(rows, key=lambda row: row["run_at"]))
        # With more patience than the bell: nobody waits for this, and messages may be large.
        refused = push(self._broker.resources, offers, client=self._broker.resources.redis)
        if refused:
            connection.execute(withdraw_offers(), {"ids": refused})

    def _head_offered(self, queue: str, band: int) -> datetime | None:
        """When the head of a list was offered; None: the list is empty. A head that nobody can read is dropped."""
        redis: Any = self._broker.resources.redis
        key = list_key(queue, band)
        while (head := redis.lindex(key, 0)) is not None:
            data = redis.hget(messages_key(queue), head)
            if data is not None:
                try:
                    offered_ms = json.loads(data)["options"][MARK]["offered_ms"]
                    return datetime.fromtimestamp(offered_ms / 1000, UTC)
                except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
                    return datetime.fromtimestamp(0, UTC)  # a stock message, or one that the consumer will isolate
            # An id without a message: nothing can come of it.
            redis.lrem(key, 1, head)
        return None

    def _adopt_delayed(self) -> int:
        """Take stock producers' delayed messages into rows: no delayed message sits in a worker's memory."""
        redis: Any = self._broker.resources.redis
        adopted = 0
        for queue in sorted(self._broker.get_declared_queues()):
            delayed = f"{NAMESPACE}:{queue}.DQ"
            for identifier in redis.lrange(delayed, 0, BATCH - 1):
                data = redis.hget(f"{delayed}.msgs", identifier)
                # The row first: who dies in between leaves a message that is adopted again, under the same id.
                if data is not None:
                    self._adopt(queue, identifier.decode(), data)
                redis.lrem(delayed, 1, identifier)
                redis.hdel(f"{delayed}.msgs", identifier)
                adopted += 1
        return adopted

    def _adopt(self, queue: str, identifier: str, data: bytes) -> None:
        try:
            message = decode(data)
        except DecodeError:
            bury(self._broker, queue, identifier, data, "cannot be decoded")
            return
        sane = without_faults(message.options)
        adopt(self._broker, dataclasses.replace(message, queue_name=queue, options=sane), identifier, data)
