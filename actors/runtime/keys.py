"""Redis: key names and the scripts that touch them. Postgres decides; these only carry messages.

``dramatiq:<queue>``          list of redis ids, band 0 (the stock list: stock producers push here)
``dramatiq:<queue>:urgent``   the same, band -1 (priority below 0)
``dramatiq:<queue>:patient``  the same, band 1 (priority above 0)
``dramatiq:<queue>.msgs``     hash: redis id → encoded message (stock)
``dramatiq:<queue>.DQ[.msgs]``  delayed messages of stock producers; the relay takes them into rows
``dramatiq:<queue>.XQ[.msgs]``  dead letters (stock): only what cannot become a row
``dramatiq:__acks__.<worker>.<queue>``  set: redis ids fetched and not yet acknowledged by that worker (stock)

A redis id of ours is ``<job id>.<dispatch number>``: the same offer pushed twice is one entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

NAMESPACE = "dramatiq"
_SUFFIX = {-1: ":urgent", 0: "", 1: ":patient"}

#: Ids that one list holds at most; the relay keeps the rest in Postgres until there is room.
LIST_CAP = 50_000

#: KEYS msgs, list; ARGV cap, then id and message alternating. Pushes what is absent; returns how many pairs were
#: dealt with before the list was full.
PUSH = """
local room = tonumber(ARGV[1]) - redis.call('llen', KEYS[2])
local dealt = 0
for i = 2, #ARGV, 2 do
  if room <= 0 then return dealt end
  if redis.call('hsetnx', KEYS[1], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('rpush', KEYS[2], ARGV[i])
    room = room - 1
  end
  dealt = dealt + 1
end
return dealt
"""

#: KEYS msgs, acks, lists in order of urgency; ARGV an id already popped or '', how many in all. Returns two lists:
#: ids and messages (a message is nil where the hash has lost it).
FETCH = """
local ids = {}
if ARGV[1] ~= '' then ids[1] = ARGV[1] end
local want = tonumber(ARGV[2])
for k = 3, #KEYS do
  while #ids < want do
    local id = redis.call('lpop', KEYS[k])
    if not id then break end
    ids[#ids + 1] = id
  end
end
if #ids == 0 then return {{}, {}} end
redis.call('sadd', KEYS[2], unpack(ids))
return {ids, redis.call('hmget', KEYS[1], unpack(ids))}
"""

#: KEYS msgs, acks, list; ARGV ids. Puts unstarted messages back at the head of their list.
REQUEUE = """
for i = #ARGV, 1, -1 do
  if redis.call('srem', KEYS[2], ARGV[i]) > 0 and redis.call('hexists', KEYS[1], ARGV[i]) > 0 then
    redis.call('lpush', KEYS[3], ARGV[i])
  end
end
"""

#: KEYS msgs, acks, XQ, XQ.msgs; ARGV id, now in ms, message. Isolates what cannot become a row.
BURY = """
redis.call('zadd', KEYS[3], ARGV[2], ARGV[1])
redis.call('hset', KEYS[4], ARGV[1], ARGV[3])
redis.call('srem', KEYS[2], ARGV[1])
redis.call('hdel', KEYS[1], ARGV[1])
"""


def list_key(queue: str, band: int) -> str:
    """The list of one queue and band."""
    return f"{NAMESPACE}:{queue}{_SUFFIX[band]}"


def list_keys(queue: str) -> list[str]:
    """A queue's three lists, most urgent first."""
    return [list_key(queue, band) for band in (-1, 0, 1)]


def messages_key(queue: str) -> str:
    """The hash of a queue's messages."""
    return f"{NAMESPACE}:{queue}.msgs"


def acks_key(worker: UUID | str, queue: str) -> str:
    """The set of what a worker has fetched from a queue and not acknowledged."""
    return f"{NAMESPACE}:__acks__.{worker}.{queue}"


def dead_letter_keys(queue: str) -> tuple[str, str]:
    """Dead letters: the sorted set and the hash."""
    return f"{NAMESPACE}:{queue}.XQ", f"{NAMESPACE}:{queue}.XQ.msgs"


def all_keys(queue: str) -> Iterable[str]:
    """Every key that holds messages of a queue, for ``flush``."""
    delayed = f"{NAMESPACE}:{queue}.DQ"
    return [*list_keys(queue), messages_key(queue), delayed, f"{delayed}.msgs", *dead_letter_keys(queue)]


def redis_id(job: UUID | str, dispatch: int) -> str:
    """The id of one offer."""
    return f"{job}.{dispatch}"


def job_of(identifier: str) -> UUID | None:
    """The job of one of our redis ids; None for a stock producer's."""
    head, dot, number = identifier.rpartition(".")
    if not dot or not number.isdigit():
        return None
    try:
        return UUID(head)
    except ValueError:
        return None
