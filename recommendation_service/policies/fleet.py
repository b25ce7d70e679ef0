"""Which policy the fleet serves, and its versions, in Redis: what is decided on one machine holds on all.

One value has what is served, the versions, and the latest changes; each version is a value of its own. A change is a
compare-and-swap of the first, so of two that are made at once one is refused. A machine that follows takes what it
lacks, checks it as a version of its disk, and only then serves it. Redis may lose everything: each machine has the
number of the state that it took up, and whoever has the highest puts it there again.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.errors import PolicyError
from recommendation_service.core.files import write_whole
from recommendation_service.core.redis import LUA_GET, RedisUnavailable
from recommendation_service.policies.experiment import experiment_of
from recommendation_service.policies.journal import Deed, Entry, entry_of
from recommendation_service.policies.store import BY_LEARNER, NOTHING_SERVED, PolicyStore, Served

FILE = "fleet.json"
STATE = "{fleet}:policies"
FENCE = "{fleet}:fence"  # of whoever merges and publishes what was learned (learning/fleet.py)
# Longer than a policy is served unchanged; each machine renews it while it runs.
KEPT_SECONDS = 400 * 86_400
MOST_ENTRIES = 100  # of the journal; a machine that was away for more has gaps in its own
MOST_BYTES = 32 << 20  # of a version
_DIGEST = 32  # bytes of a checksum, before a version's content

# KEYS: the state, the fence. ARGV: SHA-1 of the state to replace, the new one, its seconds, the fence or nothing.
SWAP = (
    LUA_GET
    + """
if ARGV[4] ~= '' and get(KEYS[2]) ~= ARGV[4] then return 'fenced' end
if redis.sha1hex(get(KEYS[1]) or '') ~= ARGV[1] then return 'changed' end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 'done'
"""
)
# KEYS: a version. ARGV: its seconds. 0 where it is not there.
RENEW = "return redis.call('EXPIRE', KEYS[1], ARGV[1])"
PUT = "return redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])"
REMOVE = "return redis.call('DEL', KEYS[1])"
READ = LUA_GET + "return get(KEYS[1])"


class FleetUnreachable(PolicyError):
    """Redis does not answer: this machine is cut off."""


class Fenced(PolicyError):
    """Another machine merges and publishes by now."""


@dataclass(frozen=True)
class State:
    """What the fleet serves. ``number`` counts changes; of two states of one number the later is the fleet's."""

    number: int
    moment: float  # of the latest change, seconds since 1970 by its machine
    served: Served = NOTHING_SERVED
    versions: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = field(default=())

    @property
    def order(self) -> tuple[int, float]:
        return self.number, self.moment

    def encoded(self) -> bytes:
        experiment = self.served.experiment
        served = self.served._asdict() | {"experiment": experiment.content() if experiment is not None else None}
        return json.dumps(asdict(self) | {"served": served}).encode()


def decoded(content: bytes) -> State | None:
    """None: it is no state."""
    try:
        found: dict[str, Any] = json.loads(content)
        told = found["served"]
        experiment = told.get("experiment")  # of a release that had none it lacks
        served = Served(
            *(told["current"], told["pinned"], tuple(told["shadows"])),
            experiment_of(experiment) if experiment is not None else None,
        )
        entries = tuple(Entry(**entry) for entry in found["entries"])
        return State(int(found["number"]), float(found["moment"]), served, tuple(found["versions"]), entries)
    except (ValueError, TypeError, KeyError):
        return None


ALONE = State(-1, 0.0)  # what a machine has that changed something without the fleet: whatever that serves is newer


class FleetPolicies:
    """A machine's end; used under the lock of the store's changes.

    ``fence``: of the learner that may publish for the fleet. ``may_go_alone``: where Redis does not answer, changes are
    made on this machine; once it answers again, what the fleet serves is served here, too.
    """

    def __init__(self, redis: BlockingRedis, *, may_go_alone: bool = False) -> None:
        self._redis = redis
        self._may_go_alone = may_go_alone
        self.is_alone = False
        self.fence = ""
        self._found = b""  # in Redis, when it was followed
        self._state: State | None = None

    def follow(self, store: PolicyStore) -> None:
        """Have the store serve what the fleet does, or the fleet what the store does where that is newer.

        Raises PolicyError: Redis does not answer, or what the fleet serves cannot be had whole.
        """
        self.is_alone = False
        try:
            self._found = self._redis.script(READ, [STATE]) or b""
            theirs, ours = decoded(self._found), _own(store)
            if theirs is None or ours.order > theirs.order:
                if ours.versions or theirs is not None:
                    self._put_versions(store, ours.versions)
                    self._swap(ours)
                    _note(store, ours)
            elif ours.order < theirs.order:
                self._adopt(store, theirs)
            self._state = decoded(self._found)
        except RedisUnavailable as error:
            if not self._may_go_alone:
                raise FleetUnreachable(f"Redis at {self._redis.address} does not answer: {error}.") from error
            self.is_alone = True

    def agree(self, store: PolicyStore, entries: list[Entry], served: Served, new: list[str]) -> None:
        """Before a change is made here: it is the fleet's. Raises PolicyError where it cannot become that."""
        if self.is_alone:
            _note(store, ALONE)
            return
        before = self._state or State(0, 0.0)
        versions = [name for name in store.versions() if name in before.versions or name in new]
        moment = max([before.moment, *(datetime.fromisoformat(entry.when).timestamp() for entry in entries)])
        state = State(before.number + 1, moment, served, tuple(versions), _latest([*before.entries, *entries]))
        try:
            self._put_versions(store, new)
            self._swap(state)
        except RedisUnavailable as error:
            raise PolicyError(
                f"Whether it was changed is not known, as Redis at {self._redis.address} has not answered: {error}. "
                "`recs policy list` shows what is served, some seconds after Redis is there again."
            ) from error
        self._remove_versions(set(before.versions) - set(versions))

    def noted(self, store: PolicyStore) -> None:
        if not self.is_alone and self._state is not None:
            _note(store, self._state)

    def renew(self, store: PolicyStore) -> None:
        """Keep alive what Redis has, and put there what it lost. Raises PolicyError."""
        try:
            if self._state is not None:
                self._redis.script(RENEW, [STATE], KEPT_SECONDS)
                here = set(store.versions())
                gone = [
                    name
                    for name in self._state.versions
                    if not self._redis.script(RENEW, [_key(name)], KEPT_SECONDS) and name in here
                ]
                self._put_versions(store, gone)
        except RedisUnavailable as error:
            raise FleetUnreachable(f"Redis at {self._redis.address} does not answer: {error}.") from error

    def _swap(self, state: State) -> None:
        """Raises PolicyError, RedisUnavailable."""
        content = state.encoded()
        sha = hashlib.sha1(self._found, usedforsecurity=False).hexdigest()
        outcome = self._redis.script(SWAP, [STATE, FENCE], sha, content, KEPT_SECONDS, self.fence)
        if outcome == b"fenced":
            raise Fenced("Nothing was published: another machine of the fleet merges by now.")
        if outcome != b"done":
            raise PolicyError("Nothing was changed: another machine changed what the fleet serves just now.")
        self._found, self._state = content, state

    def _put_versions(self, store: PolicyStore, versions: "list[str] | tuple[str, ...]") -> None:
        for version in versions:
            with contextlib.suppress(PolicyError):  # damaged here; somebody else has it whole
                content = msgspec.msgpack.encode(store.contents(version))
                value = hashlib.sha256(content).digest() + content
                self._redis.script(PUT, [_key(version)], value, KEPT_SECONDS)

    def _remove_versions(self, versions: set[str]) -> None:
        with contextlib.suppress(RedisUnavailable):  # then they go by themselves, much later
            for version in versions:
                self._redis.script(REMOVE, [_key(version)])

    def _adopt(self, store: PolicyStore, state: State) -> None:
        """Raises PolicyError, RedisUnavailable; then what was served here is."""
        here = set(store.versions())
        for version in dict.fromkeys([*state.served.named, *reversed(state.versions)]):
            if version in here:
                continue
            try:
                self._fetch(store, version)
            except PolicyError:
                if version in state.served.named:
                    raise
        known, before = set(store.journal.entries()), store.served()
        entries = [entry for entry in state.entries if entry not in known]
        if not entries and before != state.served:
            entries = [
                entry_of(Deed(datetime.now(UTC), "the fleet", "what it serves"), "follow", state.served.current, None)
            ]
        store.apply(entries, state.served)
        store.remove_old_of_each()
        _note(store, state)

    def _fetch(self, store: PolicyStore, version: str) -> None:
        value = self._redis.script(READ, [_key(version)])
        if not value:
            raise PolicyError(f"The fleet serves policy version {version}, which Redis does not have.")
        content = value[_DIGEST:]
        try:
            if len(content) > MOST_BYTES or hashlib.sha256(content).digest() != value[:_DIGEST]:
                raise ValueError("its checksum is another")
            files = msgspec.msgpack.decode(content, type=dict[str, bytes])
        except ValueError as error:
            self._redis.script(REMOVE, [_key(version)])  # whoever has it whole puts it there again
            raise PolicyError(f"The fleet's policy version {version} is damaged in Redis: {error}.") from error
        store.take_in(version, files)


def _key(version: str) -> str:
    return "{fleet}:policy:" + version


def _latest(entries: list[Entry]) -> tuple[Entry, ...]:
    """Of the learner's own entries, which come several times an hour, the last is enough."""
    own = [entry for entry in entries if entry.who == BY_LEARNER]
    return tuple([entry for entry in entries if entry.who != BY_LEARNER or entry is own[-1]][-MOST_ENTRIES:])


def _own(store: PolicyStore) -> State:
    """What this machine would put there: the state that it took up last, or what it served before there was a fleet."""
    noted = State(0, 0.0)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((store.folder / FILE).read_bytes())
        noted = State(int(found["number"]), float(found["moment"]))
    entries = store.journal.entries()
    if noted.order == (0, 0.0) and entries:
        noted = replace(noted, moment=max(datetime.fromisoformat(entry.when).timestamp() for entry in entries))
    return replace(noted, served=store.served(), versions=tuple(store.versions()), entries=_latest(entries))


def _note(store: PolicyStore, state: State) -> None:
    """Raises PolicyError."""
    try:
        write_whole(
            Path(store.folder) / FILE, json.dumps({"number": state.number, "moment": state.moment}), synced=True
        )
    except OSError as error:
        raise PolicyError(f"{store.folder / FILE} cannot be written: {error.strerror}.") from error
