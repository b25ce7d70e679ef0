"""What a worker serves from: the current catalog and policy, taken up without a restart or a slow request."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from recommendation_service.catalog.hold import read_held
from recommendation_service.catalog.refresher import STATUS_FILE
from recommendation_service.catalog.server_figures import last_figures
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError, NotReady, Overloaded
from recommendation_service.core.files import folder_problem
from recommendation_service.core.metrics import Metrics
from recommendation_service.core.supervision import ProcessSupervisor
from recommendation_service.feed.pipeline import FeedPipeline, FeedRequest
from recommendation_service.flush.flusher_status import read_status
from recommendation_service.log.event_log import folder_bytes
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory, lifetimes_of
from recommendation_service.ranking.policy import ENDPOINTS, Policy
from recommendation_service.sources.blacklist import missing_blacklist

log = structlog.get_logger(__name__)

# How often a worker looks whether CURRENT names another version: a read of 30 bytes.
WATCH_SECONDS = 0.25
# Looks in a row that find the event loop behind before feeds are refused: one alone is a pause of the machine, after
# which every request that waited is answered in less time than its client would need to ask again.
LOOKS_BEHIND = 2

# What the database server calls it: the metric's name, and its help.
_SERVER_METRICS = {
    "Threads_connected": ("recs_mysql_threads_connected", "Connections to the database server, of everyone"),
    "Threads_running": ("recs_mysql_threads_running", "Of these, those that run a statement"),
    "max_connections": ("recs_mysql_max_connections", "Connections that the server allows"),
    "Aborted_connects": ("recs_mysql_connects_failed_total", "Attempts to connect that failed, of everyone"),
    "Slow_queries": ("recs_mysql_slow_queries_total", "Statements that took longer than long_query_time"),
    "long_query_time": ("recs_mysql_long_query_seconds", "The server's long_query_time"),
}


class Serving:
    """Holds the pipeline of the version in use. One event loop uses it; opening happens in a thread."""

    def __init__(
        self, settings: Settings, store: CatalogStore, policy: Policy, metrics: Metrics, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._store = store
        self._policy = policy
        self._metrics = metrics
        self.clock = clock or Clock()
        self.lifetimes = lifetimes_of(settings)
        self.supervisor: ProcessSupervisor | None = None
        self.waiting: dict[str, str] = {}  # what a first start has to do before a feed, in words
        self.memory: UserMemory | None = None  # what users have seen, while there is one
        self.wrong_place: str | None = None  # why nothing may be served from DATA_DIR, nor written to it
        self._pipeline: FeedPipeline | None = None
        self._refused: str | None = None
        self._refused_reason = ""
        self._unlisted = ""  # why what was built without a blacklist is not served
        self._looks_behind = 0
        self._loading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "catalog")

    @property
    def catalog(self) -> Catalog | None:
        return self._pipeline.catalog if self._pipeline else None

    async def ready_pipeline(self) -> FeedPipeline:
        """Raises NotReady before the first catalog, and Overloaded while the worker stays far behind."""
        pipeline = self._pipeline or await self._first_pipeline()
        if self.wrong_place is not None:
            self.check_place()
        if self._looks_behind >= LOOKS_BEHIND:
            raise Overloaded("The service is at its limit.", retry_after_seconds=2)
        return pipeline

    async def ready_catalog(self) -> Catalog:
        """For /ready: a worker that is behind is ready all the same. Raises NotReady before the first catalog."""
        self.check_place()
        return (self._pipeline or await self._first_pipeline()).catalog

    def check_place(self) -> None:
        """Raises NotReady where DATA_DIR is another database's."""
        if self.wrong_place is not None:
            raise NotReady(self.wrong_place, retry_after_seconds=15)

    async def _first_pipeline(self) -> FeedPipeline:
        """Another worker may have told a client that the service is ready while this one has not looked yet: then
        the request waits for this one."""
        await self.take_up_current()
        if self._pipeline is None:
            raise NotReady(self.why_not_ready(), retry_after_seconds=2)
        return self._pipeline

    def why_not_ready(self) -> str:
        """Why no feed can be served."""
        if self.waiting:
            return " ".join(self.waiting.values())
        if self._unlisted:
            return f"No catalog yet: {self._unlisted}"
        if self._refused:
            return self._refused_reason
        problem = self.supervisor.problem if self.supervisor else ""
        error = problem or refresher_status(self._store).get("error")
        return f"No catalog yet: {error}" if error else "No catalog yet: the first one is being built."

    async def take_up_current(self) -> None:
        """``load_current`` off the event loop, once however many ask; at a first start not before it can."""
        if self.waiting:
            return
        async with self._loading:
            version = self._store.current()
            loaded = self._pipeline.catalog.version if self._pipeline else None
            if version not in (None, loaded, self._refused):
                await asyncio.get_running_loop().run_in_executor(self._thread, self.load_current)

    def load_current(self) -> bool:
        """Open what CURRENT names, if that is new and whole; else serve on from what is loaded.

        Reads every byte once, to check it and to have it in memory: call it off the event loop.
        """
        version = self._store.current()
        if version is None or version == self._refused:
            return False
        if self._pipeline is not None and version == self._pipeline.catalog.version:
            return False
        if self._pipeline is None and self._lacks_blacklist(version):
            return False
        started = time.perf_counter()
        try:
            catalog = self._store.open(version)
        except CatalogError as error:
            self._refused, self._refused_reason = version, str(error)
            self._metrics.catalog_refused.inc()
            log.error("catalog refused", version=version, reason=str(error))
            return self._pipeline is None and self._load_previous(version)
        if catalog.manifest["policy_digest"] != self._policy.catalog_digest:
            log.warning("catalog was built with another policy; the next build is with this one", version=version)
        self._take_up(catalog, started)
        return True

    def _lacks_blacklist(self, version: str) -> bool:
        """Whether it was built without a blacklist, and there is one now that nobody has been able to read."""
        missing = missing_blacklist(self._settings)
        if missing is not None:
            try:
                if blacklist_report(self._store.manifest(version)).get("was_read"):
                    missing = None  # by whoever builds
            except CatalogError:
                missing = None  # what opens it says so
        if missing is not None and missing != self._unlisted:
            log.error("no catalog is served", version=version, reason=missing)
        self._unlisted = missing or ""
        return missing is not None

    def _load_previous(self, damaged: str) -> bool:
        """At a start the current version may be damaged: the newest whole one before it serves."""
        for version in reversed(self._store.versions()):
            if version == damaged:
                continue
            try:
                catalog = self._store.open(version)
            except CatalogError as error:
                log.error("catalog refused", version=version, reason=str(error))
                continue
            self._take_up(catalog, time.perf_counter())
            return True
        return False

    def _take_up(self, catalog: Catalog, started: float) -> None:
        first = self._pipeline is None
        pipeline = FeedPipeline(catalog, self._policy, self._settings.feed_seed, self._observe_stage, self.lifetimes)
        # The first feed loads machine code and touches the version's pages: nobody should wait for that.
        for endpoint in ENDPOINTS:
            pipeline.feed(FeedRequest(endpoint, 0, 24, "warm-up"))
        self._pipeline = pipeline
        self._refused = None
        self._metrics.catalog_swaps.inc()
        counts = catalog.counts
        if first:
            log.info(
                f"DataService inicializado: {counts['users']} users, {counts['videos']} videos, "
                f"{counts['interactions']} interactions"
            )
            log.info("RecommendationEngine inicializado", policy=self._policy.version)
        log.info(
            "catalog taken up",
            version=catalog.version,
            milliseconds=round((time.perf_counter() - started) * 1000, 1),
        )

    async def watch(self) -> None:
        """Take up new versions until cancelled, and note how far behind the event loop is."""
        while True:
            due = time.monotonic() + WATCH_SECONDS
            await asyncio.sleep(WATCH_SECONDS)
            self._note_behind(time.monotonic() - due)
            try:
                self.clock.follow()
                self._metrics.cpu.add()
                await self.take_up_current()
            except Exception:
                # What is being served goes on; the next look may go better.
                log.exception("catalog could not be taken up")

    def _note_behind(self, seconds: float) -> None:
        if seconds <= self._settings.shed_load_after_seconds:
            self._looks_behind = 0
            return
        self._looks_behind += 1
        if self._looks_behind == LOOKS_BEHIND:
            log.warning("feeds are refused until this worker has caught up", behind_seconds=round(seconds, 3))

    def count_relaxed(self, rules: list[str]) -> None:
        """Count the rules that gave way in a feed."""
        for rule in rules:
            self._metrics.relaxed.labels(rule).inc()

    def _observe_stage(self, stage: str, seconds: float, items: int) -> None:
        self._metrics.stage_seconds.labels(stage).observe(seconds)
        self._metrics.stage_items.labels(stage).observe(items)

    def problems(self) -> list[str]:
        """What an operator has to mend though feeds are served: sentences for /ready, counted in /metrics."""
        held = blacklist_report(self.catalog.manifest).get("held") if self.catalog is not None else None
        settings = self._settings
        folders = (settings.data_dir, settings.catalog_dir, settings.events_dir, settings.seen_dir)
        found = [str(held)] if held else []
        found += [problem for folder in folders if (problem := folder_problem(folder))]
        if (kept := read_held(settings.catalog_dir)) is not None:
            found.append(f"The newest catalog is held back: {kept.reason}.")
        agreed = self.clock.agreed
        if agreed is not None and agreed.problem is not None:
            found.append(f"The time is uncertain, and nothing is deleted for its age: {agreed.problem}.")
        status = read_status(settings.events_dir)
        if status is not None and status.unreadable_segments:
            found.append(
                f"{status.unreadable_segments} segments of {settings.events_dir} cannot be read by the flusher's user: "
                "their events wait."
            )
        return found

    def facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """Gauges of the catalog in use, of the process that builds catalogs, and of the database server."""
        catalog = self.catalog
        yield "recs_ready", "Whether feeds can be served", {}, float(catalog is not None and self.wrong_place is None)
        yield "recs_problems", "What /ready lists as to be mended", {}, float(len(self.problems()))
        status = refresher_status(self._store)
        yield (
            "recs_catalog_build_failures",
            "Builds that failed since the last good one",
            {},
            float(status.get("failures", 0)),
        )
        held = float(read_held(self._store.folder) is not None)
        yield "recs_catalog_held", "Whether a catalog that lost most of its items is held back", {}, held
        figures = last_figures(self._store.folder, self.clock.now)
        for variable, (name, help_text) in _SERVER_METRICS.items():
            if variable in figures.variables:
                yield name, help_text, {}, figures.variables[variable]
        for table, index, reads in figures.index_reads:
            labels = {"table": table, "index": index}
            yield "recs_mysql_index_reads_total", "Rows read through an index", labels, float(reads)
        yield from self._memory_facts()
        yield from self._flusher_facts()
        yield from self._clock_facts()
        if catalog is None:
            return
        report = catalog.manifest["report"]
        # Not the catalog's version, which is another every few seconds: each would be a series for ever.
        yield "recs_catalog_info", "Policy that the catalog is served with", {"policy": self._policy.version}, 1.0
        yield "recs_catalog_built_timestamp_seconds", "When it was built", {}, catalog.built_at
        for name, count in report["counts"].items():
            yield "recs_catalog_rows", "Rows in the catalog", {"what": name}, float(count)
        blacklist = blacklist_report(catalog.manifest)
        yield "recs_blacklist_addresses", "Addresses blacklisted", {}, float(blacklist.get("addresses") or 0)
        yield "recs_blacklist_held", "Whether a list read before holds", {}, float(bool(blacklist.get("held")))
        for name, milliseconds in report["query_milliseconds"].items():
            yield "recs_catalog_query_seconds", "Time of a source query", {"query": name}, milliseconds / 1000
        yield "recs_catalog_build_seconds", "Time of building", {}, report["build_milliseconds"] / 1000
        for entry in report["set_aside"]:
            column = {"column": entry["column"], "reason": entry["reason"]}
            yield "recs_catalog_set_aside", "Rows and values set aside", column, float(entry["count"])

    def _clock_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """What the refresher and the flusher found out about the time."""
        agreed = self.clock.agreed
        if agreed is None:
            return
        certain = self.clock.may_delete(self._settings.clock_wait_seconds)
        yield "recs_clock_disagrees", "Whether the clocks disagree", {}, float(agreed.problem is not None)
        yield "recs_clock_certain", "Whether what is too old is deleted", {}, float(certain)
        ahead = self.clock.machine_offset + self.clock.monotonic() - self.clock.now()
        yield "recs_clock_machine_ahead_seconds", "Of this machine's clock, beside the service's time", {}, ahead
        if agreed.database_ahead is not None:
            help_text = "Of the database's clock, beside the service's time"
            yield "recs_clock_database_ahead_seconds", help_text, {}, agreed.database_ahead

    def _memory_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """Of the memory of what users have seen: one file for all workers."""
        if not self._settings.seen_state:
            return
        used, limit = 0, 0
        memory = self.memory
        if memory is not None:
            with contextlib.suppress(MemoryFailed):
                used, limit = memory.filled()
        yield "recs_seen_open", "Whether the worker that answers has it", {}, float(limit > 0)
        yield "recs_seen_bytes", "What is in use of it", {}, float(used)
        yield "recs_seen_limit_bytes", "What may be, before what was seen longest ago gives way", {}, float(limit)

    def _flusher_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """Of the events on this machine's disk, and of the process that brings them into the database."""
        folder = self._settings.events_dir
        with contextlib.suppress(OSError):  # another user's: /ready says it
            log_bytes = float(folder_bytes(folder)) if folder.is_dir() else 0.0
            yield "recs_events_log_bytes", "What the event log takes of the disk", {}, log_bytes
        status = read_status(folder)
        if status is None:
            return
        oldest_seconds = 0.0 if status.oldest_ms is None else max(0.0, self.clock.now() - status.oldest_ms / 1000)
        yield "recs_events_waiting", "Events that the database does not have", {}, float(status.waiting_records)
        yield "recs_events_waiting_bytes", "Their part of the log", {}, float(status.waiting_bytes)
        yield "recs_events_oldest_seconds", "How long the oldest has waited", {}, oldest_seconds
        yield "recs_flush_failures", "Flushes that failed since the last good one", {}, float(status.failures)
        for event, count in status.flushed.items():
            yield "recs_events_flushed_total", "Events brought into the database", {"event": event}, float(count)
        for name, (help_text, value) in {
            "recs_events_duplicates_total": ("Events that the database had already", status.duplicates),
            "recs_events_dead_total": ("Records that became dead letters", status.dead_letters),
            "recs_events_forgotten_total": ("Records of forgotten users, dropped", status.forgotten),
            "recs_events_damaged_segments_total": ("Segments of the log with damage", status.damaged_segments),
            "recs_events_escaped_total": ("Events that activity_log has with escapes only", status.escaped),
            "recs_events_torn_total": ("Half-written records at a segment's end, dropped", status.torn_records),
            "recs_flushes_total": ("Flushes", status.flushes),
            "recs_flush_seconds_total": ("Time of flushes", status.flush_seconds),
            "recs_flush_retries_total": ("Batches that were tried again", status.retries),
        }.items():
            yield name, help_text, {}, float(value)


def blacklist_report(manifest: dict[str, Any]) -> dict[str, Any]:
    """Of a version's build; nothing of one that an earlier release built."""
    found = manifest["report"].get("blacklist")
    return found if isinstance(found, dict) else {}


def refresher_status(store: CatalogStore) -> dict[str, Any]:
    """What the process that builds catalogs last said of itself."""
    try:
        status = json.loads((store.folder / STATUS_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
