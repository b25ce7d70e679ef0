"""Build a catalog of so many videos, in memory, each time that a line comes in, with the code of the checkout that runs
this; the processor time goes out. For builds.py, which runs it in other commits too."""

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.worlds import NOW, _tables
from recommendation_service.core.config import Settings

try:
    from recommendation_service.mappings.interacpedia.builder import assemble_catalog
    from recommendation_service.policies.policy import load_policy
except ImportError:  # where these were in commits up to 5484959
    from recommendation_service.ranking.policy import load_policy  # type: ignore[no-redef,import-not-found]

    from recommendation_service.catalog.builder import assemble_catalog  # type: ignore[no-redef,attr-defined]


def main() -> None:
    videos, folder = int(sys.argv[1]), Path(sys.argv[2])
    # What people take together was in no catalog then, and is computed anew but once in hours.
    without = {"collaborative": False} if "collaborative" in Settings.model_fields else {}
    settings = Settings(_env_file=None, data_dir=folder, **without)  # type: ignore[call-arg,arg-type]
    policy, tables = load_policy(), _tables(videos, 1.8, 70, np.random.default_rng(7))
    assemble_catalog(tables, {}, settings, policy, NOW)
    for _ in sys.stdin:
        started = time.process_time()
        assemble_catalog(tables, {}, settings, policy, NOW)
        print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    main()
