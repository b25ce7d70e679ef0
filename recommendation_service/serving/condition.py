"""What condition a worker and its machine are in: gauges for /metrics, and what /ready lists as to be mended."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from recommendation_service.catalog.hold import read_held
from recommendation_service.catalog.server_figures import last_figures
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.files import folder_problem
from recommendation_service.editors.rulings import BURY, PIN, TAKEDOWN
from recommendation_service.flush.flusher_status import read_status
from recommendation_service.learning.status import read_status as read_learner_status
from recommendation_service.log.event_log import folder_bytes
from recommendation_service.log.lags import LogLags
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory
from recommendation_service.policies.fleet_status import read_fleet_status
from recommendation_service.serving.editors_watch import EditorsWatch
from recommendation_service.serving.generation import Serving, blacklist_report, not_personal_report, refresher_status

# What the database server calls it: the metric's name, and its help.
_SERVER_METRICS = {
    "Threads_connected": ("recs_mysql_threads_connected", "Connections to the database server, of everyone"),
    "Threads_running": ("recs_mysql_threads_running", "Of these, those that run a statement"),
    "max_connections": ("recs_mysql_max_connections", "Connections that the server allows"),
    "Aborted_connects": ("recs_mysql_connects_failed_total", "Attempts to connect that failed, of everyone"),
    "Slow_queries": ("recs_mysql_slow_queries_total", "Statements that took longer than long_query_time"),
    "long_query_time": ("recs_mysql_long_query_seconds", "The server's long_query_time"),
}


class Condition:
    """One worker's, whichever is asked. What is on the disk and may have changed is read anew each time."""

    def __init__(
        self,
        settings: Settings,
        store: CatalogStore,
        clock: Clock,
        serving: Serving,
        memory: Callable[[], UserMemory | None],
        editors: EditorsWatch,
    ) -> None:
        """``memory``: what users have seen, as it is now; None while there is none."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._serving = serving
        self._memory = memory
        self._editors = editors
        self._lags = LogLags(settings.events_dir)

    def problems(self) -> list[str]:
        """What an operator has to mend though feeds are served: sentences for /ready, counted in /metrics."""
        catalog = self._serving.catalog
        held = blacklist_report(catalog.manifest).get("held") if catalog is not None else None
        settings = self._settings
        folders = (
            settings.data_dir,
            settings.policy_dir,
            settings.catalog_dir,
            settings.events_dir,
            settings.seen_dir,
            settings.editors_dir,
        )
        found = [str(held)] if held else []
        if settings.not_personal_table is not None and catalog is not None:
            reason = not_personal_report(catalog.manifest).get("held")
            if catalog.not_personal is None and not reason:
                reason = "NOT_PERSONAL_TABLE has not been read yet: until it is, nobody's feed is personal"
            found += [f"{reason}."] if reason else []
        found += [problem for folder in folders if (problem := folder_problem(folder))]
        for process in self._serving.supervisors.values():
            if process.problem and not folder_problem(process.folder):
                found.append(f"There is no {process.name}: {process.problem}.")
        if (kept := read_held(settings.catalog_dir)) is not None:
            found.append(f"The newest catalog is held back: {kept.reason}.")
        found += self._serving.policy_problems
        if (problem := self._cut_off()) is not None:
            found.append(f"This machine does not follow the policy that the fleet serves: {problem}")
        if (problem := self._editors_cut_off()) is not None:
            found.append(f"This machine does not follow what the fleet's editors rule: {problem}")
        if self._editors.problem is not None:
            found.append(f"{self._editors.problem}.")
        agreed = self._clock.agreed
        if agreed is not None and agreed.problem is not None:
            found.append(f"The time is uncertain, and nothing is deleted for its age: {agreed.problem}.")
        status = read_status(settings.events_dir)
        if status is not None and status.unreadable_segments:
            found.append(
                f"{status.unreadable_segments} segments of {settings.events_dir} cannot be read by the flusher's user: "
                "their events wait."
            )
        if status is not None and status.taken is not None:
            found.append(f"Events wait in the log: {status.taken}")
        learner = read_learner_status(settings.learning_dir) if settings.learner != "off" else None
        if learner is not None and learner.error is not None:
            found.append(f"Nothing is learned, or not published: {learner.error}")
        if learner is not None and learner.unread:
            unread = "; ".join(f"{table}: {problem}" for table, problem in learner.unread.items())
            found.append(f"What people did by these tables is not learned from: {unread}")
        if learner is not None and learner.fleet is not None:
            found += [
                f"What the machine {each['machine']} ({each.get('host', 'unknown')}) learned is not merged: "
                f"{each['refused']}."
                for each in learner.fleet["machines"]
                if each["refused"] is not None
            ]
        return found

    def _cut_off(self) -> str | None:
        """Of the machine, from what the fleet serves; None: there is no fleet, or it is followed."""
        return self._not_followed(self._settings.policy_dir)

    def _editors_cut_off(self) -> str | None:
        """The same of what the fleet's editors rule."""
        return self._not_followed(self._settings.editors_dir)

    def _not_followed(self, folder: Path) -> str | None:
        if not self._settings.has_redis:
            return None
        status = read_fleet_status(folder)
        return status.error if status is not None and status.is_cut_off(self._clock.now()) else None

    def _editors_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """What editors ruled, as the worker that answers has it."""
        rulings, catalog = self._editors.state.in_force(self._clock.now()), self._serving.catalog
        held: Counter[str] = Counter(one.action for one in rulings)
        for action in (PIN, BURY, TAKEDOWN):
            yield "recs_editors_rulings", "What editors ruled that holds", {"action": action}, float(held[action])
        absent = sum(one.action == PIN and catalog is not None and catalog.row_of(one.key) < 0 for one in rulings)
        yield "recs_editors_pins_absent", "Pins that hold, of items that the catalog has not", {}, float(absent)
        unreadable = float(self._editors.problem is not None)
        yield "recs_editors_unreadable", "Whether what editors ruled is not what its file says", {}, unreadable
        cut_off = float(self._editors_cut_off() is not None)
        yield "recs_editors_cut_off", "Whether what the fleet's editors rule is not followed", {}, cut_off

    def facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """Gauges of the catalog in use, of the process that builds catalogs, and of the database server."""
        catalog = self._serving.catalog
        yield (
            "recs_ready",
            "Whether feeds can be served",
            {},
            float(catalog is not None and self._serving.wrong_place is None),
        )
        yield "recs_problems", "What /ready lists as to be mended", {}, float(len(self.problems()))
        cut_off = float(self._cut_off() is not None)
        yield "recs_fleet_cut_off", "Whether the policy that the fleet serves is not followed", {}, cut_off
        status = refresher_status(self._store)
        yield (
            "recs_catalog_build_failures",
            "Builds that failed since the last good one",
            {},
            float(status.get("failures", 0)),
        )
        held = float(read_held(self._store.folder) is not None)
        yield "recs_catalog_held", "Whether a catalog that lost most of its items is held back", {}, held
        figures = last_figures(self._store.folder, self._clock.now)
        for variable, (name, help_text) in _SERVER_METRICS.items():
            if variable in figures.variables:
                yield name, help_text, {}, figures.variables[variable]
        for table, index, reads in figures.index_reads:
            labels = {"table": table, "index": index}
            yield "recs_mysql_index_reads_total", "Rows read through an index", labels, float(reads)
        yield from self._memory_facts()
        yield from self._flusher_facts()
        yield from self._learner_facts()
        yield from self._editors_facts()
        yield from self._clock_facts()
        if catalog is None:
            return
        report = catalog.manifest["report"]
        # Not the catalog's version, which is another every few seconds: each would be a series for ever.
        yield (
            "recs_catalog_info",
            "Policy that the catalog is served with",
            {"policy": self._serving.policy.file.version},
            1.0,
        )
        yield "recs_catalog_built_timestamp_seconds", "When it was built", {}, catalog.built_at
        for name, count in report["counts"].items():
            yield "recs_catalog_rows", "Rows in the catalog", {"what": name}, float(count)
        blacklist = blacklist_report(catalog.manifest)
        yield "recs_blacklist_addresses", "Addresses blacklisted", {}, float(blacklist.get("addresses") or 0)
        yield "recs_blacklist_held", "Whether a list read before holds", {}, float(bool(blacklist.get("held")))
        listed = len(catalog.not_personal) if catalog.not_personal is not None else 0
        yield "recs_not_personal_users", "Users in NOT_PERSONAL_TABLE", {}, float(listed)
        for name, milliseconds in report["query_milliseconds"].items():
            yield "recs_catalog_query_seconds", "Time of a source query", {"query": name}, milliseconds / 1000
        yield "recs_catalog_build_seconds", "Time of building", {}, report["build_milliseconds"] / 1000
        for entry in report["set_aside"]:
            column = {"column": entry["column"], "reason": entry["reason"]}
            yield "recs_catalog_set_aside", "Rows and values set aside", column, float(entry["count"])

    def _learner_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """As the learner last told."""
        status = read_learner_status(self._settings.learning_dir)
        experiment = status.experiment if status is not None else None
        help_text = "Of the test that people come into the arms as the shares say, at any time; 1: no experiment runs"
        p_value = float(experiment["ratio_p_value"]) if experiment is not None else 1.0
        yield "recs_experiment_ratio_p_value", help_text, {}, p_value
        help_text = "Looks at the evidence of policy versions, and what the gate did"
        for did, count in ({"promoted": 0, "returned": 0} | (status.gate if status is not None else {})).items():
            yield "recs_learn_gate_total", help_text, {"did": did}, float(count)
        if status is None:
            return
        totals = status.totals
        yield "recs_learn_pending_feeds", "Feeds that may still bring rewards", {}, float(status.pending_feeds)
        help_text = "Tables of the operator's that are not learned from, as they cannot be read"
        yield "recs_learn_tables_unread", help_text, {}, float(len(status.unread))
        if totals.version_ms is not None:
            help_text = "When the last version was published"
            yield "recs_learn_published_timestamp_seconds", help_text, {}, totals.version_ms / 1000
        if (fleet := status.fleet) is not None:
            merged = [each for each in fleet["machines"] if not each["struck"] and each["refused"] is None]
            refused = [each for each in fleet["machines"] if each["refused"] is not None]
            publishes = fleet["publisher"] == fleet["machine"]
            yield "recs_learn_fleet_cut_off", "Whether Redis does not answer the learner", {}, float(fleet["cut_off"])
            yield "recs_learn_fleet_publishes", "Whether it merges and publishes", {}, float(publishes)
            yield "recs_learn_fleet_machines", "Machines whose sums are merged", {}, 1.0 + len(merged)
            yield "recs_learn_fleet_refused", "Machines whose sums cannot be", {}, float(len(refused))
        if experiment is not None:
            for arm, of in experiment["arms"].items():
                labels = {"arm": arm}
                yield "recs_experiment_people", "People of whom a feed was made by the arm", labels, float(of["people"])
                yield "recs_experiment_feeds", "Feeds that the arm made", labels, float(of["feeds"])
                yield "recs_experiment_reward", "What these have brought", labels, float(of["reward"])
        if (counts := totals.agreement.get(totals.version or "")) is not None and counts[0]:
            help_text = "Share of draws that the last learned version would make as what serves"
            yield "recs_learn_agreement_ratio", help_text, {}, counts[1] / counts[0]
        for kind, count in totals.slots.items():
            yield "recs_learn_slots_total", "Shown items that were learned from", {"kind": kind}, float(count)
        for event, sources in totals.events.items():
            for source, count in sources.items():
                labels = {"event": event, "source": source}
                yield "recs_learn_events_total", "Events that were brought together with a feed", labels, float(count)
        for reason, count in totals.left.items():
            yield "recs_learn_left_total", "What taught nothing", {"reason": reason}, float(count)

    def _clock_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """What the refresher and the flusher found out about the time."""
        agreed = self._clock.agreed
        if agreed is None:
            return
        certain = self._clock.may_delete(self._settings.clock_wait_seconds)
        yield "recs_clock_disagrees", "Whether the clocks disagree", {}, float(agreed.problem is not None)
        yield "recs_clock_certain", "Whether what is too old is deleted", {}, float(certain)
        ahead = self._clock.machine_offset + self._clock.monotonic() - self._clock.now()
        yield "recs_clock_machine_ahead_seconds", "Of this machine's clock, beside the service's time", {}, ahead
        if agreed.database_ahead is not None:
            help_text = "Of the database's clock, beside the service's time"
            yield "recs_clock_database_ahead_seconds", help_text, {}, agreed.database_ahead

    def _memory_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """Of the memory of what users have seen: one file for all workers."""
        if not self._settings.seen_state:
            return
        used, limit = 0, 0
        memory = self._memory()
        if memory is not None:
            with contextlib.suppress(MemoryFailed):
                used, limit = memory.filled()
        yield "recs_seen_open", "Whether the worker that answers has it", {}, float(limit > 0)
        yield "recs_seen_bytes", "What is in use of it", {}, float(used)
        yield "recs_seen_limit_bytes", "What may be, before what was seen longest ago gives way", {}, float(limit)

    def _reader_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """Of who reads the log. Raises OSError."""
        now = self._clock.now()
        for lag in self._lags.read():
            labels = {"reader": lag.reader}
            seconds = 0.0 if lag.oldest_ms is None else max(0.0, now - lag.oldest_ms / 1000)
            yield "recs_events_reader_behind_bytes", "What a reader of the log has before it", labels, float(lag.bytes)
            yield "recs_events_reader_behind_seconds", "How old the oldest record of that is", labels, seconds
            missed = float(lag.missed.records)
            yield "recs_events_reader_missed_total", "Records that a reader was cut off from", labels, missed

    def _flusher_facts(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """Of the events on this machine's disk, and of the process that brings them into the database."""
        folder = self._settings.events_dir
        with contextlib.suppress(OSError):  # another user's: /ready says it
            log_bytes = float(folder_bytes(folder)) if folder.is_dir() else 0.0
            yield "recs_events_log_bytes", "What the event log takes of the disk", {}, log_bytes
            yield from self._reader_facts()
        status = read_status(folder)
        if status is None:
            return
        oldest_seconds = 0.0 if status.oldest_ms is None else max(0.0, self._clock.now() - status.oldest_ms / 1000)
        yield "recs_events_waiting", "Events that the database does not have", {}, float(status.waiting_records)
        yield "recs_events_waiting_bytes", "Their part of the log", {}, float(status.waiting_bytes)
        yield "recs_events_oldest_seconds", "How long the oldest has waited", {}, oldest_seconds
        overdue_seconds = 0.0 if status.promised_ms is None else max(0.0, self._clock.now() - status.promised_ms / 1000)
        help_text = "How long past the time by which the oldest was to be in the database"
        yield "recs_events_overdue_seconds", help_text, {}, overdue_seconds
        yield "recs_flush_failures", "Flushes that failed since the last good one", {}, float(status.failures)
        for event, count in status.flushed.items():
            yield "recs_events_flushed_total", "Events brought into the database", {"event": event}, float(count)
        for name, (help_text, value) in {
            "recs_events_duplicates_total": ("Events that the database had already", status.duplicates),
            "recs_events_dead_total": ("Records that became dead letters", status.dead_letters),
            "recs_events_forgotten_total": ("Records of forgotten users, dropped", status.forgotten),
            "recs_events_damaged_segments_total": ("Segments of the log with damage", status.damaged_segments),
            "recs_events_escaped_total": ("Events that the operator's log has with escapes only", status.escaped),
            "recs_events_torn_total": ("Half-written records at a segment's end, dropped", status.torn_records),
            "recs_flushes_total": ("Flushes", status.flushes),
            "recs_flush_seconds_total": ("Time of flushes", status.flush_seconds),
            "recs_flush_retries_total": ("Batches that were tried again", status.retries),
        }.items():
            yield name, help_text, {}, float(value)
