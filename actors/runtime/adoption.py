"""Adoption: a message that a stock producer put into Redis gets its row; what cannot have one is isolated."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dramatiq import Message
from sqlalchemy import exc

from actors.runtime.errors import CallboardError, UniqueKeyBusy
from actors.runtime.keys import BURY, acks_key, dead_letter_keys, messages_key
from actors.runtime.logs import get_logger
from actors.runtime.sending import DEFAULT_TENANT, prepare, store

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker

log = get_logger("adoption")


def adopt(broker: CallboardBroker, message: Message[Any], identifier: str, data: bytes) -> None:
    """Give a stock producer's message its row, with its ``eta`` as the time before which it does not run.

    The payload is not compared with its model here: a wrong one is still a job, which fails where everybody sees
    it. Data that Postgres cannot hold goes to the dead letters, where a person can look at it. When this returns,
    Redis may forget the message.

    Args:
      identifier: its redis id. data: the message as it was found.

    Raises:
      DBAPIError, RedisError: nothing was decided.
    """
    eta = message.options.get("eta")
    try:
        delay = max(0.0, eta - time.time() * 1000) if isinstance(eta, (int, float)) else None
        store(broker, [prepare(broker, message, delay, offer=False, tenant_id=DEFAULT_TENANT, checked=False)], None)
    except UniqueKeyBusy as error:
        raise exc.OperationalError("adoption", {}, error) from error  # a lock that passes: nothing was decided
    except (CallboardError, TypeError, ValueError, OverflowError) as error:
        bury(broker, message.queue_name, identifier, data, str(error))


def bury(broker: CallboardBroker, queue: str, identifier: str | bytes, data: bytes, reason: str) -> None:
    """Isolate a message that cannot become a row: dead letters keep it. Raises RedisError."""
    log.error("message.isolated", queue=queue, redis_id=str(identifier), reason=reason)
    xq, xq_messages = dead_letter_keys(queue)
    script = broker.resources.redis.register_script(BURY)
    keys = [messages_key(queue), acks_key(broker.broker_id, queue), xq, xq_messages]
    script(keys=keys, args=[identifier, int(time.time() * 1000), data])
