"""A consumer that blocks for work: one pop over a queue's three lists wakes it, one script fetches the rest."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable
from threading import Condition
from typing import TYPE_CHECKING, Any

from dramatiq import Consumer, Message
from dramatiq.broker import MessageProxy
from dramatiq.errors import DecodeError
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import exc

from actors.runtime.adoption import adopt, bury
from actors.runtime.current import Attempt
from actors.runtime.keys import FETCH, REQUEUE, acks_key, list_key, list_keys, messages_key
from actors.runtime.logs import get_logger
from actors.runtime.messages import MARK, decode
from actors.runtime.options import without_faults
from actors.runtime.resources import BLOCK_S, COMMAND_TIMEOUT_S, redis_client

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("consumer")

#: Seconds between two tries while Redis is away: the first, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
#: Ids that one acknowledgement carries at most.
ACKS_AT_ONCE = 1_000


class Delivery(MessageProxy):
    """A fetched message and what this process knows of it."""

    def __init__(self, message: Message[Any], redis_id: str, data: bytes) -> None:
        mark = message.options.pop(MARK, None)
        #: Ours: it has a row, or had one.
        self.marked = isinstance(mark, dict)
        if not self.marked:
            message = dataclasses.replace(message, options=without_faults(message.options))
        super().__init__(message)
        self.redis_id = redis_id
        self.data = data
        #: The list that it came from: where it goes back to.
        self.band = mark.get("band", 0) if isinstance(mark, dict) and mark.get("band") in (-1, 0, 1) else 0
        self.attempt: Attempt | None = None
        #: Neither claimed nor refused: Redis must keep it.
        self.unsettled = False


class InFlight:
    """What this process has fetched and not acknowledged; on the broker, so that a replaced consumer loses nothing."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._fetched: dict[str, set[str]] = {}
        self._pending: dict[str, list[str]] = {}

    def add(self, queue: str, identifiers: Iterable[str]) -> None:
        """Fetched."""
        with self._changed:
            self._fetched.setdefault(queue, set()).update(identifiers)

    def remove(self, queue: str, identifier: str) -> None:
        """Dealt with, or put back."""
        with self._changed:
            self._fetched.setdefault(queue, set()).discard(identifier)
            self._changed.notify_all()

    def wait_for_room(self, queue: str, most: int, timeout_s: float) -> int:
        """How many more may be fetched; waits a moment when there is no room."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._fetched.get(queue, ())) < most, timeout_s)
            return most - len(self._fetched.get(queue, ()))

    def to_acknowledge(self, queue: str, identifiers: Iterable[str]) -> list[str]:
        """These, and those that Redis has not heard of yet."""
        with self._changed:
            pending = self._pending.pop(queue, [])
            return [*pending, *identifiers][-ACKS_AT_ONCE:]

    def not_acknowledged(self, queue: str, identifiers: Iterable[str]) -> None:
        """Redis was away."""
        with self._changed:
            self._pending.setdefault(queue, []).extend(identifiers)


class BlockingConsumer(Consumer):
    """Consumes one queue. No Redis error leaves it: a consumer that raises is replaced, and forgets what it held."""

    def __init__(self, broker: CallboardBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        self._broker = broker
        self._queue = queue_name
        self._prefetch = prefetch
        self._cache: deque[Delivery] = deque()
        self._redis = redis_client(
            broker.settings, timeout_s=BLOCK_S + COMMAND_TIMEOUT_S, connect_timeout_s=COMMAND_TIMEOUT_S
        )
        self._fetch = self._redis.register_script(FETCH)
        self._lists = list_keys(queue_name)
        self._pause_s = 0.0

    def __next__(self) -> Delivery | None:
        """The next message, or None after at most a second."""
        if self._cache:
            return self._cache.popleft()
        if self._broker.stopping.is_set():
            time.sleep(0.05)  # Dramatiq asks on until its threads are done; nothing new is fetched
            return None
        room = self._broker.in_flight.wait_for_room(self._queue, self._prefetch, BLOCK_S)
        if room <= 0:
            return None
        try:
            if not self._broker.redis_is_known:
                self._introduce()
            self._fill(room)
            self._pause_s = 0.0
        except RedisError as error:
            self._broker.redis_is_known = False
            log.warning("consumer.waits", queue=self._queue, error=str(error))
            self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._broker.stopping.wait(self._pause_s)
        except exc.DBAPIError as error:
            log.warning("consumer.waits", queue=self._queue, error=str(error.orig))
            self._broker.stopping.wait(FIRST_PAUSE_S)
        return self._cache.popleft() if self._cache else None

    def _introduce(self) -> None:
        """Say whom we talk to, once per connection: first and after every outage."""
        try:
            told: Any = self._redis.info("server")
        except ResponseError:  # some hosted servers forbid it
            told = {}
        self._broker.redis_is_known = True
        address = self._redis.connection_pool.connection_kwargs
        log.info(
            "redis.connected",
            redis=f"{address.get('path') or address.get('host')}:{address.get('port', '')}/{address.get('db', 0)}",
            server_version=told.get("valkey_version") or told.get("redis_version"),
        )

    def _fill(self, room: int) -> None:
        popped = self._redis.blpop(self._lists, timeout=BLOCK_S)
        if popped is None:
            return
        keys = [messages_key(self._queue), acks_key(self._broker.broker_id, self._queue), *self._lists]
        ids, messages = self._fetch(keys=keys, args=[popped[1], room])
        for identifier, data in zip(ids, messages, strict=True):
            if data is None:
                # Acknowledged under another name, or flushed between pop and fetch.
                self._redis.srem(keys[1], identifier)
                continue
            try:
                self._receive(identifier.decode(), data)
            except (DecodeError, UnicodeDecodeError):
                bury(self._broker, self._queue, identifier, data, "cannot be decoded")
            except exc.DBAPIError as error:
                # Not adopted now: back with it, and on with the others of this fetch.
                log.warning("adoption.waits", redis_id=str(identifier), error=str(error.orig))
                self._redis.register_script(REQUEUE)(keys=[*keys[:2], list_key(self._queue, 0)], args=[identifier])

    def _receive(self, name: str, data: bytes) -> None:
        # The list decides which queue this is: Dramatiq answers to the queue that the message names.
        delivery = Delivery(dataclasses.replace(decode(data), queue_name=self._queue), name, data)
        if "eta" in delivery.options:
            # A stock producer's delay: in Dramatiq's hands it would sit in this process's memory until then.
            adopt(self._broker, delivery._message, name, data)
            self._broker.acknowledge(self._queue, [name])
            return
        self._broker.in_flight.add(self._queue, [name])
        self._cache.append(delivery)

    def ack(self, message: MessageProxy) -> None:
        """Dealt with, after the ledger's commit; a message that was neither claimed nor refused goes back."""
        assert isinstance(message, Delivery)
        if message.unsettled:
            self.requeue([message])
            return
        self._broker.in_flight.remove(self._queue, message.redis_id)
        self._broker.acknowledge(self._queue, [message.redis_id])

    def nack(self, message: MessageProxy) -> None:
        """As :meth:`ack`: a FAILED row is the dead letter. A stock message of an unknown actor gets its row first."""
        assert isinstance(message, Delivery)
        if message.attempt is None and not message.marked and not message.unsettled:
            try:
                adopt(self._broker, message._message, message.redis_id, message.data)
            except (exc.DBAPIError, RedisError) as error:
                log.warning("adoption.waits", redis_id=message.redis_id, error=str(error))
                message.unsettled = True
        self.ack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Put unstarted messages back at the head of their lists; what Redis does not hear the sweep repairs."""
        deliveries = [message for message in messages if isinstance(message, Delivery)]
        for delivery in deliveries:
            self._broker.in_flight.remove(self._queue, delivery.redis_id)
        try:
            script = self._redis.register_script(REQUEUE)
            for band in (-1, 0, 1):
                names = [delivery.redis_id for delivery in deliveries if delivery.band == band]
                if names:
                    acks = acks_key(self._broker.broker_id, self._queue)
                    script(keys=[messages_key(self._queue), acks, list_key(self._queue, band)], args=names)
        except RedisError as error:
            log.warning("requeue.left", queue=self._queue, messages=len(deliveries), error=str(error))

    def close(self) -> None:
        """Put back what was fetched and not handed out, and close the connection."""
        self.requeue(self._cache)
        self._cache.clear()
        self._redis.close()
