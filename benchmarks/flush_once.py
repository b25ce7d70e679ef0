"""Flush a folder's log into a database, with the code of the checkout that runs this, and print what it took: for
beside_database.py, which runs it in other commits too."""

import argparse
import json
import logging
import time
from pathlib import Path

import structlog

from recommendation_service.core.config import load_settings

try:
    from recommendation_service.flush.flusher import Flusher
    from recommendation_service.flush.migrations import migrate
    from recommendation_service.flush.tables import make_writing_engine
except ImportError:  # where these were in commits up to 5484959
    from recommendation_service.events.flusher import Flusher  # type: ignore[no-redef,import-not-found]
    from recommendation_service.events.tables import (  # type: ignore[no-redef,import-not-found]
        make_writing_engine,
        migrate,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("data_dir", type=Path)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = load_settings(database_url=options.url, data_dir=options.data_dir, event_log_megabytes=4096)
    engine = make_writing_engine(settings)
    migrate(engine)
    flusher = Flusher(settings, engine)
    own, started = time.process_time(), time.perf_counter()
    whole = flusher.flush_all()
    took = {"seconds": time.perf_counter() - started, "own_seconds": time.process_time() - own}
    print(json.dumps(took | {"whole": whole, "flushed": flusher.status.flushed}))


if __name__ == "__main__":
    main()
