"""The process that builds catalogs: at its start, where something changed, and on demand.

It is a process of its own so that a driver's threads never meet a fork, and whatever goes wrong with
a build goes wrong here. Workers start and watch it (processes/supervision.py); one runs for each catalog folder.
"""

import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.coded_source import CodedSource
from recommendation_service.catalog.hold import Holder
from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.catalog.server_figures import ServerWatch
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.clock import Clock
from recommendation_service.core.clock_watch import ClockWatch
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import CatalogError, ConfigurationError, SourceError
from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.core.logging import configure_logging
from recommendation_service.core.place import check
from recommendation_service.core.replicas import ReadReplicas
from recommendation_service.mappings.opening import open_source
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.processes.niceness import step_back
from recommendation_service.processes.parent import end_with_parent
from recommendation_service.processes.registry import REFRESHER, pool_share
from recommendation_service.processes.requests import asked
from recommendation_service.sources.blacklist import blacklist_stamp
from recommendation_service.sources.mapping.source import MappedSource
from recommendation_service.telemetry.database_metrics import process_numbers

log = structlog.get_logger(__name__)

STATUS_BYTES = 4096  # padded to so many, so that a later status has its room when the disk is full

POLL_SECONDS = 0.1
# After a failed build the next try comes after so long, doubled up to the refresh interval.
FIRST_RETRY_SECONDS = 1.0
# A build has time, and requests have not: where both want a core, requests get most of it.
BUILD_NICENESS = 10


@dataclass
class RefresherStatus:
    """Written after each build or try, read by workers for /ready, /metrics and reload."""

    version: str | None = None
    error: str | None = None
    failures: int = 0
    reload_token: str | None = None  # of the last reload that was carried out
    built_at: float = 0.0


class Refresher:
    """Decides when to build, builds, publishes, and says how it went."""

    def __init__(
        self,
        settings: Settings,
        source: CodedSource | MappedSource,
        store: CatalogStore,
        policies: PolicyChoice,
        *,
        clock: Clock,
        watch: ClockWatch | None = None,
    ) -> None:
        """``watch``: what keeps the clock right, None: the caller vouches for it."""
        self._settings = settings
        self._source = source
        self._store = store
        self._policies = policies
        self._clock = clock
        self._holder = Holder(settings, source, store, clock)
        self._watch = watch
        self.status = RefresherStatus()
        self._lists = KeptLists(settings.collaborative_refresh_seconds)
        self._last_fingerprint: str | None = None
        self._verified: str | None = None
        self._built: float | None = None  # when the last build was, by a clock that only goes on
        self._build_seconds = 0.0

    def run(self) -> None:
        """Until the process ends."""
        retry_seconds = FIRST_RETRY_SECONDS
        while True:
            started = time.monotonic()
            reload_token = self._reload_token()
            succeeded = self.refresh(reload_token)
            if succeeded:
                retry_seconds = FIRST_RETRY_SECONDS
                # What changes now must be in feeds within the interval, the next build's time included.
                pause = max(0.5, self._settings.catalog_refresh_seconds - self._build_seconds - 1.0)
            else:
                pause = retry_seconds
                retry_seconds = min(retry_seconds * 2, float(self._settings.catalog_refresh_seconds))
            self._wait(started + pause)

    def refresh(self, reload_token: str | None = None) -> bool:
        """Build where something changed, the catalog is old, or a reload is asked for. False: it failed."""
        try:
            check(self._settings, self._source.engine)
            if self._watch is not None:
                self._watch.look()  # windows and ages go by the time
            if self._policies.is_changed():
                self._policies.take_up()
            fingerprint = self._fingerprint()
            old = self._built is None or time.monotonic() - self._built > self._settings.catalog_max_age_seconds
            due = reload_token is not None or old or self._holder.is_over()
            if due or fingerprint != self._last_fingerprint or not self._is_whole():
                self._build(fingerprint)
                self._last_fingerprint = fingerprint
            failed = None
        except (SourceError, CatalogError) as error:
            failed = str(error)
        except Exception as error:
            # A build must never end the process: what is being served goes on, and the next try comes.
            log.exception("catalog build failed")
            failed = f"{type(error).__name__}: {error}"
        if failed is not None:
            self.status.failures += 1
            log.error("catalog build failed", reason=failed, failures=self.status.failures)
        elif self.status.error is not None:
            log.info("catalog builds succeed again", after_failures=self.status.failures)
        changed = (
            failed != self.status.error or reload_token is not None or self.status.version != self._store.current()
        )
        self.status.error = failed
        if failed is None:
            self.status.failures = 0
            self.status.version = self._store.current()
        if reload_token is not None:
            self.status.reload_token = reload_token
        if changed or failed is not None:
            self._write_status()
        return failed is None

    def _build(self, fingerprint: str) -> None:
        started, policy = time.monotonic(), self._policies.policy
        with self._store.build_lock():
            built = build_catalog(self._source, self._settings, policy, self._moment(), self._lists)
            version = self._holder.publish(built, policy, fingerprint)
        self._built = time.monotonic()
        self._build_seconds = self._built - started
        self.status.built_at = self._clock.now()
        report = built.report.as_json()
        for warning in built.report.warnings:
            log.warning("catalog warning", warning=warning)
        log.info("catalog built", version=version, **report)

    def _fingerprint(self) -> str:
        """Of the tables and of the files that decide what a catalog holds."""
        settings = self._settings
        files = blacklist_stamp(settings), _stamp(settings.cities_file)
        return repr(
            (
                self._source.fingerprint(self._moment()),
                files,
                self._policies.policy.catalog_digest,
                settings.collaborative,
            )
        )

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _is_whole(self) -> bool:
        """Whether the current version is there and undamaged; each version's bytes are read once."""
        current = self._store.current()
        if current is None:
            return False
        if current != self._verified:
            problems = self._store.verify(current)
            if problems:
                log.error("current catalog is damaged, building another", version=current, problems=problems)
                return False
            self._verified = current
        return (self._store.folder / current).is_dir()

    def _reload_token(self) -> str | None:
        """The reload that waits to be carried out."""
        token = asked(REFRESHER, self._store.folder)
        return token if token > (self.status.reload_token or "") else None

    def _wait(self, until: float) -> None:
        """Returns early where a reload is asked for."""
        while time.monotonic() < until and self._reload_token() is None:
            time.sleep(POLL_SECONDS)

    def _write_status(self) -> None:
        content = json.dumps(asdict(self.status)).ljust(STATUS_BYTES).encode()
        path = self._store.folder / REFRESHER.status_file
        try:
            make_folder(self._store.folder)
            write_whole(path, content)
        except OSError:
            # A full disk is among what has to be told: the last status is overwritten where it stands.
            with contextlib.suppress(OSError), path.open("r+b") as file:
                if os.fstat(file.fileno()).st_size >= len(content):
                    file.write(content)


def _stamp(path: Path | None) -> tuple[str, int, int] | None:
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return (str(path), 0, 0)
    return (str(path), stat.st_mtime_ns, stat.st_size)


def main() -> int:
    """Entry of the process. Its settings are those of the worker that started it."""
    try:
        settings = load_settings()
        configure_logging(settings)
        policies = PolicyChoice(settings).take_up()
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    end_with_parent()
    step_back(BUILD_NICENESS)
    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    # It stays with a server while it can: two replicas are never at the same point, and a change of server rebuilds.
    share = pool_share(settings, REFRESHER.name)
    reads = ReadReplicas(settings, share, stays=True, numbers=process_numbers(settings, REFRESHER))
    source = open_source(settings, reads.primary, reads.connect)
    clock = Clock(settings.data_dir, settings.clock_tolerance_seconds)
    ServerWatch(source.engine, store.folder, source.read_tables, clock.now).start()
    with contextlib.suppress(KeyboardInterrupt):
        watch = ClockWatch(clock, source.engine, settings.clock_wait_seconds)
        Refresher(settings, source, store, policies, clock=clock, watch=watch).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
