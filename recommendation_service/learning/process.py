"""The entry of the learner's process, which a worker keeps alive."""

import signal
import sys
import threading

import structlog

from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import ConfigurationError, SourceError
from recommendation_service.core.logging import configure_logging
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.learner import RETRY_SECONDS, Learner
from recommendation_service.learning.mapped import learning_of
from recommendation_service.learning.status import LearnerStatus, read_status
from recommendation_service.processes.niceness import step_back
from recommendation_service.processes.parent import end_with_parent
from recommendation_service.processes.registry import LEARNER, pool_share

log = structlog.get_logger(__name__)

# Nobody waits for it; but what gets nothing on a busy machine falls behind the log, and learns nothing at all.
NICENESS = 10


def keep_learning(settings: Settings, file: LearningFile, clock: Clock, stop: threading.Event) -> None:
    """Until asked to stop; where it cannot be, the status says why, and it is tried again."""
    last = ""
    while not stop.is_set():
        try:
            learner = Learner(settings, file, clock.now, pool_share(settings, LEARNER.name))
            try:
                learner.run(stop)
            finally:
                learner.close()
            return
        except (SourceError, OSError) as error:
            problem = str(error)
        except Exception as error:
            log.exception("the learner failed")
            problem = f"{type(error).__name__}: {error}"
        if problem != last:
            log.error("nothing is learned", reason=problem)
        last = problem
        status = read_status(settings.learning_dir) or LearnerStatus()
        status.error = problem
        status.write(settings.learning_dir, clock.now_ms())
        stop.wait(RETRY_SECONDS)


def main() -> int:
    """Its settings are those of the worker that started it."""
    try:
        settings = load_settings()
        file = learning_of(settings)
        configure_logging(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    end_with_parent()
    step_back(NICENESS)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keep_learning(settings, file, Clock(settings.data_dir, settings.clock_tolerance_seconds), stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
