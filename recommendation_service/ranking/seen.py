"""What the service remembers that a user was shown, and did about it: served, impressed, acted on, hidden.

An entry is two 64-bit numbers, so that a user's entries are one array and one value in a store:

- the key of the item, or of the creator (who can only be hidden): model/item_keys.py;
- ``seconds since 2020 << 32 | session << 8 | (slot kind + 1) << 4 | state``. Kind 0: in no feed that is remembered.

One entry an item, the latest last. Served items stay away as long as ``Lifetimes`` says or as their session lives;
impressed and acted ones long; hidden ones for ever. An entry that has expired is dropped at the next writing.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Bytes, CatalogArrays, Int32, Int64
from recommendation_service.model.kinds import PINNED
from recommendation_service.ranking.compiled import Place, compiled, inlined
from recommendation_service.ranking.kept_pools import NEVER_ENDS
from recommendation_service.ranking.places import find, find_item, is_creator
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.settled import CARRIED, ENTRIES, FIRST_WORD, ROWS, UNTIL
from recommendation_service.ranking.working_memory import (
    DISLIKED,
    EXCLUDED,
    KEPT,
    NOTHING,
    REMEMBERED,
    SEEN,
    SEEN_ACTED,
    SEEN_CAPACITY,
    SEEN_CREATORS,
    SLOTS,
    TOUCHED_ITEMS,
    USED,
    WorkingMemory,
    flag,
)

SERVED, IMPRESSED, ACTED, HIDDEN = 1, 2, 3, 4
EPOCH = 1_577_836_800  # 2020-01-01
ENTRY_BYTES = 16
NO_SESSION = 0
SESSION_BITS = 24
_SESSION_PLACE = 8
SCROLLING_SECONDS = 600  # since the user's last feed or event
SEEN_POOL = 101  # value of slot_pool: the item came back because the user had seen everything


class Lifetimes(NamedTuple):
    """Seconds for which an item stays away."""

    served: int = 1800
    session: int = 3600  # since the session's last feed
    impressed: int = 30 * 86400
    acted: int = 30 * 86400


def session_number(session_id: str | None) -> int:
    """24 bits of a session's name; 0 for none."""
    if not session_id:
        return NO_SESSION
    digest = hashlib.blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=3).digest()
    return int.from_bytes(digest, "big") or 1


@inlined
def when_of(detail: int) -> int:
    return (detail >> 32) + EPOCH


@inlined
def _session(detail: int) -> int:
    return (detail >> _SESSION_PLACE) & 0xFFFFFF


def pack_detail(now: int, session: int, kind: int, state: int) -> int:
    """``kind``: 1 + index into KINDS, or 0."""
    return max(0, now - EPOCH) << 32 | session << 8 | kind << 4 | state


_pack_detail = inlined(pack_detail)


@inlined
def at_most_now(detail: int, now: int) -> int:
    """An entry of the future is of a clock that was ahead: it counts as of now, or it would stay until then."""
    return max(0, now - EPOCH) << 32 | (detail & 0xFFFFFFFF) if when_of(detail) > now else detail


@inlined
def _stays_away(detail: int, now: int, lives: bool, lifetimes: Int64) -> bool:
    """Whether an entry still counts; ``lives``: its session does."""
    state, age = detail & 15, now - when_of(detail)
    if state == HIDDEN:
        return True
    if state == ACTED:
        return age < lifetimes[3]
    if state == IMPRESSED:
        return age < lifetimes[2]
    return lives or age < lifetimes[0]


@inlined
def lifetime_of(detail: int, lifetimes: Int64) -> int:
    """Seconds for which an entry, not of what is hidden, keeps its item away, whatever becomes of its session."""
    state = detail & 15
    return lifetimes[3] if state == ACTED else lifetimes[2] if state == IMPRESSED else lifetimes[0]


@inlined
def carried(request: RankingRequest, memory: WorkingMemory) -> int:
    """How many of the first entries belong to what has settled."""
    return int(memory.settled.words[CARRIED]) if request.is_settled else 0


@inlined
def _find_live_sessions(entries: Int64, count: int, now: int, live: Int64, lifetimes: Int64) -> int:
    """The sessions with a feed not long ago, the latest first; how many there are."""
    found = 0
    for i in range(count - 1, -1, -1):
        detail = entries[i, 1]
        session = _session(detail)
        if found == len(live) or now - when_of(detail) > lifetimes[1]:
            break
        known = session == NO_SESSION
        for j in range(found):
            known = known or live[j] == session
        if not known:
            live[found] = session
            found += 1
    return found


@inlined
def _lives(detail: int, live: Int64, found: int) -> bool:
    session, lives = _session(detail), False
    for j in range(found):
        lives = lives or live[j] == session
    return lives


@inlined
def mark_seen(memory: WorkingMemory, item: int, when: int) -> None:
    """Note that the user saw an item; of several times the latest counts."""
    if memory.flags[item] & SEEN == 0:
        flag(memory, item, SEEN)
        memory.seen_when[item] = when
    elif memory.seen_when[item] < when:
        memory.seen_when[item] = when


@inlined
def load_seen(catalog: CatalogArrays, request: RankingRequest, memory: WorkingMemory) -> None:
    """Part of stage 1, and the first to note items: flag what must stay away, from the first ``request.seen`` entries
    of the memory, and by its summary what has settled.

    Entries are gone through several times, for little each: the machine has registers for no more, and looks at
    several entries at once where nothing is asked that depends on the one before.
    """
    numbers, rows, counts = memory.seen_numbers, memory.seen_rows, memory.counts
    for i in range(2 * carried(request, memory)):
        numbers[i] = memory.settled.words[FIRST_WORD + i]
    _correct_clocks(request, memory)
    if _judge(request, memory):
        live = memory.live_sessions
        memory.live_count[0] = _find_live_sessions(
            memory.seen_entries, request.seen, request.now, live, memory.lifetimes
        )
        _let_sessions_live(request, memory)
    for i in range(request.seen):
        key = numbers[2 * i]
        rows[i] = NOTHING if is_creator(key) else find_item(catalog, key)
    _flag_seen(request, memory)
    if request.is_settled:
        _flag_settled(memory)
    if counts[SEEN_CREATORS] > 0:
        for i in range(request.seen):
            if is_creator(numbers[2 * i]):
                _hide_creator(catalog, memory, -numbers[2 * i])


@inlined
def _correct_clocks(request: RankingRequest, memory: WorkingMemory) -> None:
    numbers, now, latest = memory.seen_numbers, request.now, 0
    for i in range(request.seen):
        latest = max(latest, when_of(numbers[2 * i + 1]))
    if latest > now:
        for i in range(request.seen):
            numbers[2 * i + 1] = at_most_now(numbers[2 * i + 1], now)


@inlined
def _judge(request: RankingRequest, memory: WorkingMemory) -> bool:
    """What each entry says of its item, but for sessions; whether there were any."""
    numbers, judged, lifetimes, now = memory.seen_numbers, memory.seen_judged, memory.lifetimes, request.now
    served, impressed, acted = lifetimes[0], lifetimes[2], lifetimes[3]
    creators, deeds, sessions, hidden, until = 0, 0, 0, 0, NEVER_ENDS
    for i in range(request.seen):
        detail = numbers[2 * i + 1]
        state, age = detail & 15, now - when_of(detail)
        lifetime = acted if state == ACTED else impressed if state == IMPRESSED else served
        stays = SEEN | KEPT if age < lifetime else 0
        judged[i] = EXCLUDED | DISLIKED | KEPT if state == HIDDEN else stays
        hidden += int(judged[i] != 0)
        ends = now - age + lifetime
        until = min(until, ends if (ends > now) & (state != HIDDEN) else NEVER_ENDS)
        creators += int(is_creator(numbers[2 * i]))
        deeds += int(state == ACTED)
        sessions |= _session(detail)
    memory.counts[SEEN_CREATORS], memory.counts[SEEN_ACTED] = creators, deeds
    memory.kept.until[0], memory.kept.hidden[0] = until, hidden
    memory.live_count[0] = 0
    return sessions != NO_SESSION


@inlined
def _let_sessions_live(request: RankingRequest, memory: WorkingMemory) -> None:
    """What was served in a session that lives is kept, and stays away from that session."""
    numbers, judged, live, found = memory.seen_numbers, memory.seen_judged, memory.live_sessions, memory.live_count[0]
    hidden, last_feed = 0, 0
    for i in range(request.seen):
        detail = numbers[2 * i + 1]
        is_own = _session(detail) == request.session
        if is_own:
            last_feed = max(last_feed, when_of(detail))
        if judged[i] == 0 and detail & 15 == SERVED and _lives(detail, live, found):
            judged[i] = SEEN | KEPT if is_own else KEPT
            hidden += int(is_own)
    if hidden > 0:
        memory.kept.hidden[0] += hidden
        # Or until another session, which may have them, was served one of them and that has expired.
        ends = min(last_feed + memory.lifetimes[1] + 1, request.now + memory.lifetimes[0])
        memory.kept.until[0] = min(memory.kept.until[0], ends)


@inlined
def _flag_seen(request: RankingRequest, memory: WorkingMemory) -> None:
    """As working_memory.flag and mark_seen do of one item. Nothing was scored yet."""
    numbers, rows, judged = memory.seen_numbers, memory.seen_rows, memory.seen_judged
    flags, seen_when, touched = memory.flags, memory.seen_when, memory.touched_items
    noted = Place(memory.counts[TOUCHED_ITEMS])
    for i in range(request.seen):
        bits = np.uint8(judged[i] & (SEEN | EXCLUDED | DISLIKED))
        if rows[i] < 0 or bits == 0:
            continue
        item = Place(rows[i])
        if bits & SEEN:
            when = when_of(numbers[2 * i + 1])
            seen_when[item] = max(when, seen_when[item]) if flags[item] & SEEN else when
        touched[noted] = rows[i]
        noted += Place(flags[item] == 0)
        flags[item] |= bits
    memory.counts[TOUCHED_ITEMS] = np.int64(noted)


@inlined
def _flag_settled(memory: WorkingMemory) -> None:
    """The same of what has settled, but for when it was seen."""
    words, places, flags, touched = memory.settled.words, memory.settled.rows, memory.flags, memory.touched_items
    noted, first = Place(memory.counts[TOUCHED_ITEMS]), 2 * (FIRST_WORD + 2 * words[CARRIED])
    rows = places[first : first + words[ROWS]]
    last = Place(len(flags) - 1)
    for i in range(len(rows)):
        row = rows[i]
        item = min(Place(max(row, -1 - row)), last)  # a row of another catalog, if one were there, is none of ours
        touched[noted] = item
        noted += Place(flags[item] == 0)
        flags[item] |= SEEN if row >= 0 else EXCLUDED | DISLIKED
    memory.counts[TOUCHED_ITEMS] = np.int64(noted)
    memory.kept.until[0] = min(memory.kept.until[0], words[UNTIL])
    memory.kept.hidden[0] += words[ENTRIES] - words[CARRIED]


@inlined
def _hide_creator(catalog: CatalogArrays, memory: WorkingMemory, number: int) -> None:
    creator = find(catalog.creator_id, number, 0, len(catalog.creator_id))
    if creator >= 0:
        for j in range(catalog.creator_offsets[creator], catalog.creator_offsets[creator + 1]):
            flag(memory, catalog.creator_items[j], EXCLUDED)


@inlined
def remember_feed(request: RankingRequest, memory: WorkingMemory) -> None:
    """Part of stage 6: write the user's entries as they are after this feed, but for what has settled, to
    ``memory.remembered``."""
    numbers, rows, judged, out = memory.seen_numbers, memory.seen_rows, memory.seen_judged, memory.remembered_numbers
    flags, first, count = memory.flags, carried(request, memory), Place(0)
    if all_stay(request, memory):
        for i in range(2 * (request.seen - first)):
            out[i] = numbers[2 * first + i]
        count = Place(2 * (request.seen - first))
    else:
        for i in range(first, request.seen):
            # Without a branch: what is dropped is overwritten by the next.
            out[count], out[count + Place(1)] = numbers[2 * i], numbers[2 * i + 1]
            is_used = (rows[i] >= 0) & (flags[Place(max(rows[i], 0))] & USED != 0)
            count += Place(2 * int((judged[i] & KEPT != 0) & (not is_used)))
    for slot in range(memory.counts[SLOTS]):
        item, state = memory.slot_item[slot], SERVED
        if memory.slot_pool[slot] == SEEN_POOL:
            for i in range(request.seen):
                if rows[i] == item:
                    state = max(state, numbers[2 * i + 1] & 15)
        out[count] = memory.slot_key[slot]
        out[count + Place(1)] = _pack_detail(request.now, request.session, int(memory.slot_kind[slot]) + 1, state)
        count += Place(2)
    memory.counts[REMEMBERED] = _bound(memory.remembered, int(np.int64(count)) >> 1)


@inlined
def all_stay(request: RankingRequest, memory: WorkingMemory) -> bool:
    """Whether no entry gives way: none has expired, each kept its item away, and nothing was shown all the same."""
    judged, pools, all_stay = memory.seen_judged, memory.slot_pool, True
    for i in range(request.seen):
        all_stay &= (judged[i] & KEPT != 0) & (judged[i] & (SEEN | EXCLUDED) != 0)
    for slot in range(memory.counts[SLOTS]):
        all_stay &= (pools[slot] != SEEN_POOL) & (pools[slot] != PINNED)
    return all_stay


@compiled
def remember_events(
    entries: Int64,
    count: int,
    keys: Int64,
    states: Bytes,
    sessions: Int32,
    kinds: Bytes,
    now: int,
    lifetimes: Int64,
    live: Int64,
    out: Int64,
) -> int:
    """What a user did: move the entries of ``keys`` to their new states. Returns how many entries ``out`` has.

    entries: (n, 2), the first ``count`` of which count, written: none of the future is left.
    keys, states, sessions: (m,) of the events, in their order.
    kinds: (m,), written: 1 + the slot kind that the item was served with, 0 where that is not remembered.
    out: (SEEN_CAPACITY + m, 2) or larger. A state never falls: a hidden item stays hidden.
    """
    found = _find_live_sessions(entries, count, now, live, lifetimes)
    size = 0
    for i in range(count):
        entries[i, 1] = at_most_now(entries[i, 1], now)
        if _stays_away(entries[i, 1], now, _lives(entries[i, 1], live, found), lifetimes):
            out[size, 0], out[size, 1] = entries[i, 0], entries[i, 1]
            size += 1
    for event in range(len(keys)):
        state, kind, session, place = int(states[event]), 0, int(sessions[event]), size
        for i in range(size):
            if out[i, 0] == keys[event]:
                detail = out[i, 1]
                state, kind, place = max(state, detail & 15), (detail >> 4) & 15, i
                if session == NO_SESSION:
                    session = _session(detail)
                break
        for i in range(place, size - 1):
            out[i, 0], out[i, 1] = out[i + 1, 0], out[i + 1, 1]
        if place == size:
            size += 1
        out[size - 1, 0] = keys[event]
        out[size - 1, 1] = _pack_detail(now, session, kind, state)
        kinds[event] = kind
    return _bound(out, size)


@inlined
def _bound(out: Int64, count: int) -> int:
    """Keep at most SEEN_CAPACITY entries: the oldest served ones go first, then the oldest others, hidden ones last."""
    if count <= SEEN_CAPACITY:
        return count
    for last_state in (SERVED, ACTED, HIDDEN):
        surplus, kept = count - SEEN_CAPACITY, 0
        for i in range(count):
            if surplus > 0 and out[i, 1] & 15 <= last_state:
                surplus -= 1
            else:
                out[kept, 0], out[kept, 1] = out[i, 0], out[i, 1]
                kept += 1
        count = kept
    return count


def merge_entries(ours: Int64, theirs: Int64) -> Int64:
    """Both memories of one user as one: of an item in both the higher state and the later time, the latest last.

    (n, 2) and (m, 2) to (k, 2), k at most SEEN_CAPACITY.
    """
    both = np.concatenate([ours, theirs])
    order = np.lexsort((both[:, 1] & 15, both[:, 0]))
    both = both[order]
    first = np.flatnonzero(np.r_[True, both[1:, 0] != both[:-1, 0]])
    states = np.maximum.reduceat(both[:, 1] & 15, first) if len(both) else both[:, 1]
    details = np.maximum.reduceat(both[:, 1] >> 4, first) << 4 if len(both) else both[:, 1]
    merged = np.stack([both[first, 0], details | states], axis=1) if len(both) else both
    merged = np.ascontiguousarray(merged[np.argsort(merged[:, 1] >> 32, kind="stable")])
    return merged[: _bound_of(merged)]


@compiled
def _bound_of(entries: Int64) -> int:
    return _bound(entries, len(entries))
