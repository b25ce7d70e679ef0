"""How fast events come from the log into a MariaDB: read, decoded, and in both tables, by the flusher's own code."""

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import NullPool, create_engine

from benchmarks.database import DATABASE, create_indices
from recommendation_service.core.config import load_settings
from recommendation_service.demo.schema import metadata
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.event_log import SEGMENT_BYTES
from recommendation_service.log.records import FeedbackRecord, encode, now_ms
from recommendation_service.log.segments import SUFFIX, SegmentFull, SegmentWriter
from recommendation_service.telemetry.processes import cpu_seconds
from tests.servers import PrivateMariaDB

# The server's own defaults, which PrivateMariaDB changes for tests: each commit is synced.
DEFAULTS = (
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=96M",
)
EVENTS_OF_A_FEED = 10
USERS, ITEMS, SESSIONS = 198_000, 2_330, 20_000


@dataclass
class FlushFigures:
    events: int
    events_per_second: float
    server_us: float  # processor time an event
    flusher_us: float


def measure_flush(folder: Path, events: int) -> FlushFigures:
    """Feedback, with phase 1's indices on activity_log and recs_events' own."""
    with PrivateMariaDB(folder / "flush-mariadb", options=DEFAULTS) as server:
        server.execute(f"CREATE DATABASE {DATABASE}")
        url = server.url(DATABASE)
        operators = create_engine(url, poolclass=NullPool)
        metadata.create_all(operators)
        create_indices(url)
        settings = load_settings(
            database_url=url.render_as_string(hide_password=False), data_dir=folder / "flush", event_log_megabytes=4096
        )
        engine = make_writing_engine(settings)
        migrate(engine)
        write_log(settings.events_dir, map(encode, _feedback(events)))
        flusher = Flusher(settings, engine)
        server_before, own_before = cpu_seconds(server.pid) or 0.0, time.process_time()
        started = time.perf_counter()
        whole = flusher.flush_all()
        seconds = time.perf_counter() - started
        own, of_server = time.process_time() - own_before, (cpu_seconds(server.pid) or 0.0) - server_before
        with operators.connect() as connection:
            for table in ("recs_events", "activity_log"):
                rows = connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()
                if not whole or rows != events:
                    raise RuntimeError(f"{rows:,} of {events:,} events in {table}: {flusher.status.error}")
        engine.dispose()
        return FlushFigures(events, events / seconds, of_server / events * 1e6, own / events * 1e6)


def write_log(folder: Path, payloads: Iterable[bytes]) -> None:
    """Complete segments, as workers leave them."""
    folder.mkdir(parents=True)
    segment: SegmentWriter | None = None
    for number, payload in enumerate(payloads):
        try:
            if segment is None:
                raise SegmentFull
            segment.append(payload)
        except SegmentFull:
            if segment is not None:
                segment.close()
            segment = SegmentWriter(folder / f"{number:020d}-1{SUFFIX}", SEGMENT_BYTES)
            segment.append(payload)
    if segment is not None:
        segment.close()


def _feedback(events: int) -> Iterator[FeedbackRecord]:
    """As a client sends it: some events about each feed, in random places of the index of ids."""
    draw = random.Random(1)
    start = now_ms() - events
    request_id, user, session = "", 0, ""
    for number in range(events):
        if number % EVENTS_OF_A_FEED == 0:
            request_id, user = f"{draw.getrandbits(128):032x}", draw.randrange(1, USERS)
            session = f"session-{draw.randrange(SESSIONS):08x}"
        yield FeedbackRecord(
            f"{draw.getrandbits(128):032x}",
            draw.choice(("impression", "impression", "impression", "view", "like", "skip")),
            user,
            int(number % 12 == 11),
            draw.randrange(1, ITEMS),
            start + number,
            start + number + 40,
            request_id,
            session,
            number % 24,
            None,
            round(draw.uniform(0, 60), 2),
            1 + number % 4,
        )
