"""Measure every figure that has a target, and print them in one table. No figure is a test: machines differ.

make bench                       all of it, in some minutes
make bench ARGS=--quick          without the large catalogs, with shorter runs
make bench ARGS='--json'         the figures for a script
make bench ARGS='--beside v1.0'  feeds with everything on, here and at that commit in turn; nothing else
make bench ARGS='--beside v1.0 --of outsiders'  likewise users outside the catalog; --of flush, served, feedback,
                                 builds, parts
make bench ARGS='--of parts'     where a feed's processor time goes, a row a part
make bench ARGS='--of experiment' feeds with learning, a shadow and an experiment, beside the same without
make bench ARGS='--of overdue'   how late an event is at most, at 1,000 feeds a second
"""

import argparse
import json
import logging
import platform
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL

from benchmarks.agreement import measure_agreement
from benchmarks.comparisons import COMPARISONS, compare, refusal
from benchmarks.database import demo_database, measure_queries
from benchmarks.events import measure_flush
from benchmarks.feedback import FIRST_PAGES, measure_feedback
from benchmarks.memory import WARM_UP_REQUESTS, measure_memory
from benchmarks.named import measure_filters, measure_named
from benchmarks.pipeline import measure_pipeline
from benchmarks.server import measure_server
from recommendation_service.catalog.builder import build_catalog
from recommendation_service.core.config import load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.feed.compilation import compile_kernels
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.policies.policy import load_policy

BUILDS = 7
# Hardly anybody's catalog is as flat as this: popularity then helps retrieval least.
FLAT = {"skew": 0.3, "views_per_video": 3}


@dataclass
class Row:
    what: str
    measured: str
    target: str
    met: bool | None  # None: there is no target


def main() -> int:
    """Entry of ``python -m benchmarks``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller catalogs only, shorter runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--beside", metavar="COMMIT", help="compare with that commit, and measure nothing else")
    parser.add_argument("--of", choices=COMPARISONS, help="what is compared (default: feeds), and nothing else")
    parser.add_argument("--rounds", type=int, help="of --of: pairs of runs (default: as many as it takes)")
    parser.add_argument("--seconds", type=int, help="of --of: of each run (default: as long as it takes)")
    options = parser.parse_args()
    if reason := refusal(options):
        parser.error(reason)
    # Of the service's log only what a person must know, and never among the figures.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    console = Console(stderr=True)
    rows: list[Row] = []
    folder = Path(tempfile.mkdtemp(prefix="recs-bench-"))
    try:
        if options.beside or options.of:
            return compare(options, folder, console)
        with console.status("Compiling the ranking") as status:
            compile_kernels()
            for videos in (2_200, 20_000) if options.quick else (2_200, 20_000, 200_000, 1_000_000):
                status.update(f"One feed inside the process: {videos:,} videos")
                rows += _pipeline_rows(videos, folder)
            status.update("Feeds by their names, text ids, filters")
            rows += _named_rows(folder, quick=options.quick)
            status.update("Filling a private MariaDB with the demo")
            with demo_database(folder) as url:
                status.update("Running phase 1's queries")
                rows += _query_rows(url, folder)
                status.update("Building catalogs")
                rows += _build_rows(url, folder)
                status.update("Driving the service with wrk")
                rows += _server_rows(url, folder, quick=options.quick)
                status.update("The load test beside wrk and ab")
                rows += _agreement_rows(url, folder, quick=options.quick)
                status.update("Recording, remembering, feedback")
                rows += _feedback_rows(url, folder, quick=options.quick)
                status.update("Flushing events")
                rows += _flush_rows(folder, quick=options.quick)
                status.update("Memory over many requests")
                rows += _memory_rows(url, folder, quick=options.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=1) + "\n")
    else:
        _print(rows)
    return 0


def _pipeline_rows(videos: int, folder: Path) -> list[Row]:
    policy = load_policy()
    figures = measure_pipeline(videos, folder / f"world-{videos}", policy)
    limits = {2_200: 200.0, 1_000_000: 2_000.0}
    limit = limits.get(videos)
    rows = [
        Row(
            f"one feed in the process, {videos:,} videos",
            f"{figures.median_us:,.0f} µs (P99 {figures.p99_us:,.0f}), {figures.scored:,.0f} scored",
            f"≤ {limit:,.0f} µs" if limit else "",
            figures.median_us <= limit if limit else None,
        )
    ]
    shutil.rmtree(folder / f"world-{videos}")
    if videos > policy.file.pruning.exact_up_to_videos:
        flat = measure_pipeline(videos, folder / f"flat-{videos}", policy, **FLAT)
        shutil.rmtree(folder / f"flat-{videos}")
        rows.append(
            Row(
                f"best 24 found by pruning, {videos:,} videos",
                f"{figures.overlap:.3f} (least {figures.least_overlap:.2f}); "
                f"flat popularity {flat.overlap:.3f} (least {flat.least_overlap:.2f}), {flat.median_us:,.0f} µs",
                "≥ 0.95",
                min(figures.overlap, flat.overlap) >= 0.95,
            )
        )
    return rows


def _named_rows(folder: Path, *, quick: bool) -> list[Row]:
    policy = load_policy()
    named = measure_named(2_200, folder / "named", policy)
    found = measure_filters(20_000 if quick else 1_000_000, folder / "filters", policy)
    shutil.rmtree(folder / "named")
    shutil.rmtree(folder / "filters")
    kept, own = found.kept_us - found.plain_us, found.own_us - found.plain_us
    return [
        Row(
            "feeds/total in the process, as a share of search/total, 2,200 videos",
            f"{named.named_ratio:.3f} ({named.named_us:,.0f} of {named.search_us:,.0f} µs)",
            "≤ 1.05",
            named.named_ratio <= 1.05,
        ),
        Row("what text ids cost a feed", f"{named.text_us:+.1f} µs", "≤ 5 µs", named.text_us <= 5),
        Row(
            f"what a filter costs a feed that 1 % of {found.items:,} videos pass",
            f"{kept:+,.0f} µs; asked for the first time {own:+,.0f} µs (P99 {found.p99_us:,.0f} µs in all)",
            "≤ 2,000 µs",
            max(kept, own) <= 2_000,
        ),
    ]


def _query_rows(url: URL, folder: Path) -> list[Row]:
    rows = []
    for examined in measure_queries(url, folder):
        if examined.median is None or examined.target is None:
            raise RuntimeError(f"{examined.query}.sql failed: {examined.failure}")
        rows.append(
            Row(
                f"{examined.query}.sql on MariaDB with phase-1 indices, {examined.rows:,} rows",
                f"{examined.median:,.1f} ms (median of {len(examined.milliseconds)})",
                f"< {examined.target:g} ms",
                examined.median < examined.target,
            )
        )
    return rows


def _build_rows(url: URL, folder: Path) -> list[Row]:
    settings = load_settings(database_url=url.render_as_string(hide_password=False), data_dir=folder)
    source, policy = Source(make_engine(settings), settings), load_policy()
    reports = [build_catalog(source, settings, policy).report for _ in range(BUILDS)]
    queries = statistics.median(sum(report.query_milliseconds.values()) for report in reports)
    building = statistics.median(report.build_milliseconds for report in reports)
    return [
        Row(
            "catalog build, queries on MariaDB with phase-1 indices",
            f"{queries:,.0f} ms",
            "≤ 1,000 ms",
            queries <= 1000,
        ),
        Row("catalog build, building", f"{building:,.0f} ms", "≤ 500 ms", building <= 500),
    ]


def _server_rows(url: URL, folder: Path, *, quick: bool) -> list[Row]:
    rounds, seconds = (3, 4) if quick else (5, 8)
    figures = measure_server(url, folder / "service", rounds, seconds)
    return [
        Row(
            "POST /search/total without recording and memory, Gunicorn, 2 workers, 32 connections",
            f"{figures.feed:,.0f} req/s, P99 {figures.p99_ms:.1f} ms, {figures.errors} errors, "
            f"{figures.body_bytes / 1000:.1f} kB; wrk takes {figures.generator_share:.0%} of the cores",
            "≥ 3,000 req/s, P99 ≤ 25 ms, 0 errors",
            figures.feed >= 3000 and figures.p99_ms <= 25 and figures.errors == 0,
        ),
        Row(
            "the same, as a share of a fixed body that goes the feeds' own way",
            f"{figures.share:.2f} ({figures.fixed:,.0f} req/s)",
            "≥ 0.5",
            figures.share >= 0.5,
        ),
        Row(
            "the same, as a share of a fixed body from an ordinary FastAPI route",
            f"{figures.share_of_declared:.2f} ({figures.declared:,.0f} req/s)",
            "≥ 0.5",
            figures.share_of_declared >= 0.5,
        ),
        Row(
            "start to ready with a published catalog",
            f"{figures.start_seconds:.2f} s for all; a further worker {figures.worker_seconds:.2f} s",
            "≤ 1 s a worker",
            figures.start_seconds / 2 <= 1 and figures.worker_seconds <= 1,
        ),
        Row(
            "memory (PSS) of a further worker",
            f"{figures.further_pss_mb:.0f} MB (master and 5 workers: {figures.pss_mb:.0f} MB)",
            "≤ 60 MB",
            figures.further_pss_mb <= 60,
        ),
    ]


def _agreement_rows(url: URL, folder: Path, *, quick: bool) -> list[Row]:
    return [
        Row(
            f"rate that test_load_performance.py measures, as a share of what {program} does",
            f"{ratio:.2f}",
            "0.85 to 1.15",
            0.85 <= ratio <= 1.15,
        )
        for program, ratio in measure_agreement(url, folder / "agreement", 3 if quick else 7, 2).items()
    ]


def _feedback_rows(url: URL, folder: Path, *, quick: bool) -> list[Row]:
    figures = measure_feedback(url, folder / "feedback", 3 if quick else 6)
    first, late, flushing = figures.first, figures.late, figures.flushing
    return [
        Row(
            "rate with recording and memory, as a share of the rate without either, "
            f"users on their first {FIRST_PAGES} pages of 24",
            f"{first.share:.2f} ({first.on:,.0f} of {first.off:,.0f} req/s), {figures.errors} errors in all runs",
            "≥ 0.85, 0 errors",
            first.share >= 0.85 and figures.errors == 0,
        ),
        Row(
            f"the same, users on page {late.pages:.0f}",
            f"{late.share:.2f} ({late.on:,.0f} of {late.off:,.0f} req/s)",
            "",
            None,
        ),
        Row(
            f"the same, users on their first {flushing.pages:.0f} pages, with flusher and database at work "
            "(at most a tenth of the time) on the same two cores",
            f"{flushing.share:.2f} ({flushing.on:,.0f} of {flushing.off:,.0f} req/s)",
            "",
            None,
        ),
        *(
            Row(
                f"POST /feedback, 10 events a call, 2 workers, {what}",
                f"{load.requests_per_second:,.0f} calls/s, P99 {load.p99_ms:.1f} ms, {load.errors} errors",
                "≥ 2,000 calls/s",
                load.requests_per_second >= 2000 and load.errors == 0,
            )
            for what, load in figures.calls.items()
        ),
    ]


def _flush_rows(folder: Path, *, quick: bool) -> list[Row]:
    figures = measure_flush(folder, 200_000 if quick else 500_000)
    return [
        Row(
            f"{figures.events:,} events from the log into MariaDB, both tables",
            f"{figures.events_per_second:,.0f} events/s; processor time an event: server {figures.server_us:.1f} µs, "
            f"flusher {figures.flusher_us:.1f} µs",
            "≥ 50,000 events/s",
            figures.events_per_second >= 50_000,
        )
    ]


def _memory_rows(url: URL, folder: Path, *, quick: bool) -> list[Row]:
    requests, warm_up = (40_000, 2_000) if quick else (200_000, WARM_UP_REQUESTS)
    figures = measure_memory(url, folder / "service", requests, warm_up)
    parts = ", ".join(f"{role} {megabytes:.0f}" for role, megabytes in figures.by_role.items())
    windows = ", ".join(f"{megabytes:.1f}" for megabytes in figures.own_mb)
    return [
        Row(
            "memory (PSS) of 8 workers with preload, master, refresher and flusher",
            f"{figures.all_mb:,.0f} MB ({parts})",
            "< 6,144 MB",
            figures.all_mb < 6144,
        ),
        Row(
            f"what {figures.requests:,} requests add to the own memory of master and workers, "
            f"after {figures.warm_up_requests:,} to warm up",
            f"{figures.growth:+.1%}, in the second half {figures.late_growth:+.1%} (by quarters, MB: {windows}), "
            f"{figures.errors} errors",
            "flat: ≤ +1 % in the second half",
            figures.late_growth <= 0.01,
        ),
    ]


def _print(rows: list[Row]) -> None:
    console = Console()
    table = Table("what", "measured", "target", "", title=f"Measured on {platform.processor() or platform.machine()}")
    for row in rows:
        table.add_row(row.what, row.measured, row.target, {True: "met", False: "MISSED", None: ""}[row.met])
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
