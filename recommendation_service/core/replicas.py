"""Reads through replicas of the operator's database; whatever writes uses the primary's engine.

A replica is used while it answers and is less than MYSQL_MAX_REPLICA_LAG_SECONDS behind. What is known of it is at most
some seconds old: a read starts a look at a replica where the last one is more than a second ago, and waits for it
only where nothing recent is known, and then not for long. So a replica that hangs costs a read next to nothing.
"""

import itertools
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from recommendation_service.core.config import Settings
from recommendation_service.core.database import PoolShare, make_engine, make_unpooled_engine, words_of
from recommendation_service.core.database_errors import RECOVERY_CONFLICT, code_of, error_code
from recommendation_service.core.database_numbers import (
    READS,
    REPLICA_FALLBACKS,
    REPLICA_LAG_SECONDS,
    REPLICA_USABLE,
    NoNumbers,
    Numbers,
)
from recommendation_service.core.postgresql_address import POSTGRESQL, is_postgresql

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
# What is known longer than this is not relied on: a read then waits for the look that it starts.
KNOWN_SECONDS = 3.0
WAIT_SECONDS = 0.5
# A replica that failed is looked at again after the first, doubled up to the last.
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 30.0

_ACCESS_DENIED = 1227
# Of pg_stat_wal_receiver everybody may see whether there is one; pg_last_wal_receive_lsn() stays where it stopped.
_STANDING = """SELECT pg_is_in_recovery() AS is_standby,
  EXISTS (SELECT 1 FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receives,
  CAST(pg_last_wal_receive_lsn() AS text) AS received,
  pg_last_wal_replay_lsn() >= COALESCE(CAST(:received AS pg_lsn), pg_last_wal_receive_lsn()) AS is_level,
  EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp()) AS age"""
# What came in just now is taken in within a few looks.
STANDBY_LOOKS, STANDBY_PAUSE_SECONDS = 4, 0.02


class ReadReplicas:
    """Gives connections for reading: to a replica that may be used, in turn, else to the primary.

    ``stays``: reads go to one server while it may be used. For a reader whose reads belong together: two replicas
    are never at the same point. ``trusted_seconds``, for reads that may fail, and ``alone``: as in make_engine. Nothing
    is connected, and no thread started, before the first read.
    """

    def __init__(
        self,
        settings: Settings,
        share: PoolShare | None = None,
        *,
        stays: bool = False,
        numbers: Numbers | None = None,
        trusted_seconds: float = 0,
        alone: bool = False,
    ) -> None:
        self._numbers = numbers or NoNumbers()
        self._stays = stays
        self._turn = itertools.count()
        self._last: Replica | None = None
        self.primary = make_engine(settings, share, numbers=numbers, trusted_seconds=trusted_seconds, alone=alone)
        self.replicas = [
            Replica(settings, url, share, numbers, trusted_seconds, alone) for url in settings.replica_urls
        ]

    def connect(self) -> Connection:
        """Raises SQLAlchemyError where neither a replica nor the primary gives a connection."""
        for replica in self.replicas:
            replica.look()
        for replica in self._candidates():
            try:
                connection = replica.engine.connect()
            except DBAPIError as error:
                replica.fail(_words(error))
                continue
            self._last = replica
            self._numbers.add(READS, 1, replica.name)
            return connection
        if self.replicas:
            self._numbers.add(REPLICA_FALLBACKS, 1)
        connection = self.primary.connect()
        self._numbers.add(READS, 1, "primary")
        return connection

    def dispose(self) -> None:
        self.primary.dispose()
        for replica in self.replicas:
            replica.engine.dispose()

    def _candidates(self) -> list["Replica"]:
        usable = [replica for replica in self.replicas if replica.is_usable]
        if self._stays and self._last in usable:
            usable.remove(self._last)
            return [self._last, *usable]
        first = next(self._turn) % len(usable) if usable else 0
        return usable[first:] + usable[:first]


class Replica:
    """One replica: its engine, and what is known of it. Used from any thread."""

    def __init__(
        self,
        settings: Settings,
        url: URL,
        share: PoolShare | None,
        numbers: Numbers | None,
        trusted_seconds: float,
        alone: bool,
    ) -> None:
        self.name = f"{url.host}:{url.port or (5432 if is_postgresql(url) else 3306)}"
        self.engine = make_engine(
            settings, share, url=url, numbers=numbers, trusted_seconds=trusted_seconds, alone=alone
        )
        self._most_lag_seconds = settings.mysql_max_replica_lag_seconds
        # A look must neither wait for the pool nor as long as a query may.
        self._look_engine = make_unpooled_engine(
            settings, url, read_timeout_seconds=settings.mysql_connect_timeout_seconds
        )
        self._numbers = numbers or NoNumbers()
        self._lock = threading.Lock()
        self._problem: str | None = "nothing is known of it yet"
        self._known_at = -math.inf
        self._due_at = -math.inf
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._looking: threading.Event | None = None
        self._looking_since = 0.0
        event.listen(self.engine, "handle_error", self._note_disconnect)

    @property
    def is_usable(self) -> bool:
        with self._lock:
            now = time.monotonic()
            # A look that takes so long is of a replica that hangs, and so would the read.
            hangs = self._looking is not None and now - self._looking_since >= WAIT_SECONDS
            return self._problem is None and not hangs and now - self._known_at < KNOWN_SECONDS

    def look(self) -> None:
        """Start a look where one is due; wait for it where what is known is too old to be relied on."""
        with self._lock:
            now = time.monotonic()
            if self._looking is None and now >= self._due_at:
                self._looking, self._looking_since = threading.Event(), now
                threading.Thread(target=self._look, args=(self._looking,), name="replica", daemon=True).start()
            looking, waited = self._looking, now - self._looking_since
            is_known = now - self._known_at < KNOWN_SECONDS
        if looking is not None and not is_known and waited < WAIT_SECONDS:
            looking.wait(WAIT_SECONDS - waited)

    def fail(self, problem: str) -> None:
        """Leave it out at once, and look at it again later."""
        with self._lock:
            self._due_at = time.monotonic() + self._retry_seconds
            self._retry_seconds = min(self._retry_seconds * 2, LAST_RETRY_SECONDS)
            self._know(problem, math.nan)

    def _look(self, done: threading.Event) -> None:
        try:
            lag = lag_seconds(self._look_engine)
        except ReplicaProblem as error:
            self.fail(str(error))
        except SQLAlchemyError as error:
            self.fail(_words(error))
        except Exception as error:
            # Whatever it is, the reads go elsewhere and the next look comes.
            log.exception("a look at a replica failed", replica=self.name)
            self.fail(str(error))
        else:
            with self._lock:
                self._due_at = time.monotonic() + LOOK_SECONDS
                self._retry_seconds = FIRST_RETRY_SECONDS
                if lag is None:
                    self._know("replication is stopped", math.nan)
                elif lag > self._most_lag_seconds:
                    # Without the number, which is another each second: the same problem is logged once.
                    self._know(f"it is more than {self._most_lag_seconds} s behind", lag)
                else:
                    self._know(None, lag)
        finally:
            with self._lock:
                self._looking = None
            done.set()

    def _know(self, problem: str | None, lag: float) -> None:
        is_new, self._problem, self._known_at = problem != self._problem, problem, time.monotonic()
        self._numbers.set(REPLICA_USABLE, float(problem is None), self.name)
        self._numbers.set(REPLICA_LAG_SECONDS, lag, self.name)
        if is_new and problem is None:
            log.info("replica is used", replica=self.name, lag_seconds=lag)
        elif is_new:
            log.warning("replica is not used", replica=self.name, reason=problem)

    def _note_disconnect(self, context: ExceptionContext) -> None:
        if context.is_disconnect or code_of(context.original_exception) == RECOVERY_CONFLICT:
            error = context.sqlalchemy_exception
            self.fail(_words(error) if error is not None else str(context.original_exception))


class ReplicaProblem(Exception):
    """Why a server cannot be used as a replica."""


def lag_seconds(engine: Engine) -> float | None:
    """How far the server is behind, the furthest of its channels; None: replication is stopped.

    Raises ReplicaProblem where that cannot be known, and SQLAlchemyError where the server does not answer.
    """
    with engine.connect() as connection:
        if connection.dialect.name == POSTGRESQL:
            return standby_lag_seconds(connection)
        newer = not _is_mariadb(connection) and _version(connection) >= (8, 4)
        try:
            statement = "SHOW REPLICA STATUS" if newer else "SHOW SLAVE STATUS"
            channels: Sequence[Any] = connection.exec_driver_sql(statement).mappings().all()
        except DBAPIError as error:
            if getattr(error.orig, "args", (None,))[0] != _ACCESS_DENIED:
                raise
            privilege = (
                "SLAVE MONITOR" if _is_mariadb(connection) and _version(connection) >= (10, 5) else "REPLICATION CLIENT"
            )
            raise ReplicaProblem(
                f"the user {engine.url.username} lacks the privilege {privilege}, so how far it is behind is unknown"
            ) from error
    if not channels:
        raise ReplicaProblem("it is no replica: it replicates from nobody")
    lags = [channel.get("Seconds_Behind_Source", channel.get("Seconds_Behind_Master")) for channel in channels]
    return None if None in lags else max(float(lag) for lag in lags)


def standby_lag_seconds(connection: Connection) -> float | None:
    """Of a standby of PostgreSQL. What it last took in is old wherever nothing is written, so its age counts only
    while something is received that is not taken in yet, or nothing can be received.

    Raises ReplicaProblem where it takes writes itself.
    """
    received = None
    for _ in range(STANDBY_LOOKS):
        standing = connection.execute(text(_STANDING), {"received": received}).one()
        if not standing.is_standby:
            raise ReplicaProblem("it is no standby: it takes writes itself")
        if standing.receives and standing.is_level:
            return 0.0
        received = received or standing.received
        time.sleep(STANDBY_PAUSE_SECONDS)
    return None if standing.age is None else max(0.0, float(standing.age))


def _is_mariadb(connection: Connection) -> bool:
    return bool(getattr(connection.dialect, "is_mariadb", False))


def _version(connection: Connection) -> tuple[Any, ...]:
    return connection.dialect.server_version_info or (0,)


def _words(error: SQLAlchemyError) -> str:
    """The server's or the driver's words, without the statement."""
    if isinstance(error_code(error), str):
        return words_of(error)
    original = getattr(error, "orig", None)
    return str(original or error).splitlines()[0]
