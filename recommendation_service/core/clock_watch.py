"""Which clock to believe: this machine's, the database's, and what was last seen are compared, and a jump is said.

The refresher and the flusher look, as they speak to the database anyway; what they find is in ``DATA_DIR/clock.json``
for all processes (clock.py). Nothing is deleted for its age while two of the three disagree, nor for CLOCK_WAIT_SECONDS
after they did.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import structlog
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from recommendation_service.core.clock import Agreement, Clock
from recommendation_service.core.database import time_as_text
from recommendation_service.core.postgresql_address import POSTGRESQL

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
# After a boot, and in a new DATA_DIR: who was last seen not longer ago is believed without a wait.
CONTINUOUS_SECONDS = 86_400.0
_LAST_EVENT = "SELECT {received} FROM recs_events ORDER BY id DESC LIMIT 1"


class Sight(NamedTuple):
    """The clocks at one moment. Offsets are seconds from CLOCK_BOOTTIME."""

    boot_id: str
    boot: float  # CLOCK_BOOTTIME
    machine: float
    database: float | None  # None: it did not answer, or has none
    has_database: bool  # whether it has a clock of its own; an embedded one has the machine's

    def agreement(
        self,
        offset: float,
        *,
        confirmed: bool,
        settled: float | None,
        jumped: float | None = None,
        problem: str | None = None,
    ) -> Agreement:
        return Agreement(
            boot=self.boot_id,
            offset=offset,
            seen=self.boot + offset,
            confirmed=confirmed,
            settled=settled,
            machine_ahead=round(self.machine - offset, 3),
            database_ahead=None if self.database is None else round(self.database - offset, 3),
            jumped=jumped,
            problem=problem,
        )


class ClockWatch:
    """One process's. Raises nothing for what the database does."""

    def __init__(self, clock: Clock, engine: Engine, wait_seconds: float) -> None:
        self._clock = clock
        self._engine = engine
        self._wait = wait_seconds
        is_postgresql = engine.dialect.name == POSTGRESQL  # whose now() is when the transaction began
        self._now = "SELECT EXTRACT(EPOCH FROM clock_timestamp())" if is_postgresql else "SELECT UNIX_TIMESTAMP()"
        self._last_event_query = _LAST_EVENT.format(received=time_as_text(engine.dialect.name, "received_at"))
        self._next_look = 0.0
        self._jumped = False  # at the last look, whatever came of it

    def may_delete(self) -> bool:
        """Whether anything may be deleted for its age now."""
        return self._clock.may_delete(self._wait)

    def look(self) -> None:
        """Now and then, or at once where the machine's clock has jumped: compare, agree, and say what changed."""
        clock = self._clock
        clock.follow()
        known = clock.agreed
        jumped = known is not None and abs(clock.machine_offset - known.offset) > clock.tolerance
        is_new = jumped and not self._jumped
        self._jumped = jumped
        if not is_new and clock.monotonic() < self._next_look:
            return
        self._next_look = clock.monotonic() + LOOK_SECONDS
        database = self._database_offset()
        if known is None and database is None and self._has_database:
            return  # nothing is certain before it was asked
        before = clock.agreement
        found = judge(
            Sight(clock.boot_id, clock.monotonic(), clock.machine_offset, database, self._has_database),
            known,
            continuous=known is None and self._is_continuous(database),
            tolerance=clock.tolerance,
            wait=self._wait,
        )
        clock.agree(found)
        said = before.problem if before is not None else None
        if found.problem is not None and found.problem != said:
            log.error("the time is uncertain: nothing is deleted for its age", reason=found.problem)
        elif found.problem is None and said is not None:
            log.info("the clocks agree again", nothing_is_deleted_for_seconds=self._wait)

    @property
    def _has_database(self) -> bool:
        """Whether the database has a clock of its own; an embedded one has this machine's."""
        return self._engine.dialect.name != "sqlite"

    def _database_offset(self) -> float | None:
        if not self._has_database:
            return None
        try:
            with self._engine.connect() as connection:
                before = self._clock.monotonic()
                seconds = float(connection.execute(text(self._now)).scalar_one())
                return seconds - (before + self._clock.monotonic()) / 2
        except (SQLAlchemyError, ValueError, TypeError):
            return None

    def _is_continuous(self, database: float | None) -> bool:
        """Whether this boot, or this DATA_DIR, goes on not long after what was last seen: an agreement of before, or
        the newest event of the fleet."""
        clock = self._clock
        seen = [at for at in (self._last_event(),) if at is not None]
        if clock.agreement is not None:
            if clock.agreement.settled is None:
                return False
            seen.append(clock.agreement.seen)
        now = clock.monotonic() + (database if database is not None else clock.machine_offset)
        return bool(seen) and -clock.tolerance <= now - max(seen) <= CONTINUOUS_SECONDS

    def _last_event(self) -> float | None:
        """When the newest row of recs_events was accepted."""
        try:
            with self._engine.connect() as connection:
                received = connection.execute(text(self._last_event_query)).scalar_one_or_none()
            return datetime.fromisoformat(str(received)).replace(tzinfo=UTC).timestamp() if received else None
        except (SQLAlchemyError, ValueError):
            return None  # no such table yet


def judge(sight: Sight, known: Agreement | None, *, continuous: bool, tolerance: float, wait: float) -> Agreement:
    """What to go by. ``known``: what was agreed on in this boot; ``continuous``: where nothing was, the time follows
    upon what was last seen."""
    goes_on = known is not None and abs(sight.machine - known.offset) <= tolerance
    if sight.database is not None:
        return _beside_database(sight, sight.database, known, goes_on, continuous, tolerance, wait)
    since = None if sight.has_database else sight.boot
    if known is None:
        settled = sight.boot - wait if continuous and since is not None else since
        return sight.agreement(sight.machine, confirmed=continuous, settled=settled)
    if goes_on:
        settled = since if known.settled is None else known.settled
        steady = not sight.has_database and settled is not None and sight.boot - settled >= wait
        problem = known.problem if settled is None else None
        return sight.agreement(sight.machine, confirmed=known.confirmed or steady, settled=settled, problem=problem)
    leap = f"this machine's clock is {_span(sight.machine - known.offset)} what was last seen"
    jumped = known.jumped if known.jumped is not None else sight.boot
    if not known.confirmed or sight.boot - jumped >= wait:
        return sight.agreement(sight.machine, confirmed=known.confirmed, settled=since, problem=leap)
    return sight.agreement(known.offset, confirmed=True, settled=None, jumped=jumped, problem=leap)


def _beside_database(
    sight: Sight,
    database: float,
    known: Agreement | None,
    goes_on: bool,
    continuous: bool,
    tolerance: float,
    wait: float,
) -> Agreement:
    ahead = sight.machine - database
    if abs(ahead) > tolerance:
        problem = f"this machine's clock is {_span(ahead)} the database's"
        offset = sight.machine if known is not None and known.confirmed and goes_on else database
        return sight.agreement(offset, confirmed=True, settled=None, problem=problem)
    if known is None:
        settled = sight.boot - wait if continuous else sight.boot
        return sight.agreement(sight.machine, confirmed=True, settled=settled)
    if goes_on:
        settled = sight.boot if known.settled is None else known.settled
        return sight.agreement(sight.machine, confirmed=True, settled=settled)
    leap = f"this machine's clock and the database's are {_span(sight.machine - known.offset)} what was last seen"
    return sight.agreement(sight.machine, confirmed=True, settled=sight.boot, problem=leap)


def _span(seconds: float) -> str:
    """In words: how far one clock is from another."""
    size = abs(seconds)
    amount = f"{size / 86_400:,.1f} days" if size >= 86_400 else f"{size / 60:,.0f} minutes"
    return f"{amount} {'ahead of' if seconds > 0 else 'behind'}"
