"""Strays: messages in Redis that are in no list and in nobody's hands.

A reply that gets lost after a pop, or a process that dies between its pop and its fetch, leaves a message in the
hash and nowhere else. A marked one has a row, so it is litter; a stock one is all there is of its job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from actors.runtime.keys import NAMESPACE, job_of, list_key, list_keys, messages_key
from actors.runtime.logs import get_logger

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("strays")

#: Messages looked at per pass and queue.
LOOKED_AT = 5_000


class Strays:
    """One duty of maintenance. What is astray in two passes in a row is dealt with."""

    def __init__(self, broker: CallboardBroker) -> None:
        self._broker = broker
        self._suspected: dict[str, set[bytes]] = {}

    def run_once(self) -> int:
        """Put stock messages back into their list and delete our own; returns how many were dealt with."""
        try:
            return sum(self._tidy(queue) for queue in sorted(self._broker.get_declared_queues()))
        except RedisError as error:
            log.warning("strays.wait", error=str(error))
            return 0

    def _tidy(self, queue: str) -> int:
        redis: Any = self._broker.resources.redis
        held: set[bytes] = set()
        for acks in redis.scan_iter(match=f"{NAMESPACE}:__acks__.*.{queue}", count=1000):
            held |= redis.smembers(acks)
        hash_key = messages_key(queue)
        astray: set[bytes] = set()
        if redis.hlen(hash_key) > len(held) + sum(int(redis.llen(key)) for key in list_keys(queue)):
            for key in list_keys(queue):
                held |= set(redis.lrange(key, 0, -1))
            for index, (identifier, _) in enumerate(redis.hscan_iter(hash_key, count=1000)):
                if identifier not in held:
                    astray.add(identifier)
                if index >= LOOKED_AT:
                    break
        certain = astray & self._suspected.get(queue, set())
        self._suspected[queue] = astray - certain
        for identifier in certain:
            if job_of(identifier.decode()) is not None:
                redis.hdel(hash_key, identifier)
            else:
                redis.rpush(list_key(queue, 0), identifier)
        if certain:
            log.info("strays.tidied", queue=queue, messages=len(certain))
        return len(certain)
