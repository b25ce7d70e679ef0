"""Entry of the flusher's process, of which one runs on a machine, kept alive by a worker."""

import signal
import sys
import threading
from collections.abc import Callable

import structlog

from recommendation_service.core.clock import Clock
from recommendation_service.core.clock_watch import ClockWatch
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.logging import configure_logging
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.flusher_status import FlusherStatus, read_status
from recommendation_service.flush.log_replay import start_replay
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.reader import ReaderTaken
from recommendation_service.log.stream import FlusherStream, rescue_after_seconds
from recommendation_service.processes.niceness import step_back
from recommendation_service.processes.parent import end_with_parent
from recommendation_service.processes.registry import FLUSHER, pool_share
from recommendation_service.telemetry.database_metrics import process_numbers
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# A flush has time, and requests have not.
FLUSH_NICENESS = 5
# While another program reads the log under the flusher's name.
TAKEN_POLL_SECONDS = 1.0


def main() -> int:
    """Its settings are those of the worker that started it."""
    try:
        settings = load_settings()
        configure_logging(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    end_with_parent()
    step_back(FLUSH_NICENESS)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    fleet = FlusherStream(settings, Metrics(), rescue_after_seconds(settings)) if settings.has_redis else None
    clock = Clock(settings.data_dir, settings.clock_tolerance_seconds)
    if settings.seen_state:
        start_replay(settings, clock.now, stop)
    share = pool_share(settings, FLUSHER.name)
    engine = make_writing_engine(settings, share, numbers=process_numbers(settings, FLUSHER))
    watch = ClockWatch(clock, engine, settings.clock_wait_seconds)
    try:
        flusher = _once_it_is_free(
            lambda: Flusher(settings, engine, fleet=fleet, stop=stop, now_ms=clock.now_ms, watch=watch),
            settings,
            clock,
            stop,
        )
    except ConfigurationError as error:  # of the mapping
        sys.stderr.write(f"{error}\n")
        return 2
    if flusher is not None:
        flusher.run()
    return 0


def _once_it_is_free(
    begin: Callable[[], Flusher], settings: Settings, clock: Clock, stop: threading.Event
) -> Flusher | None:
    """Wait while another reads as ``flush``, which is no flusher: those wait for the lease. To end instead would be to
    be started again each second. None: the process is to stop."""
    told = None
    while not stop.is_set():
        try:
            return begin()
        except ReaderTaken as taken:
            if str(taken) != told:
                told = str(taken)
                log.error("events wait in the log", reason=told)
        status = read_status(settings.events_dir) or FlusherStatus()
        status.error = status.taken = told
        status.write(settings.events_dir, clock.now_ms())
        stop.wait(TAKEN_POLL_SECONDS)
    return None


if __name__ == "__main__":
    sys.exit(main())
