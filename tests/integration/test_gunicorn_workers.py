"""How many workers Gunicorn starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.service import REPOSITORY


def test_gunicorn_on_one_core_has_two_workers_whatever_the_machine_has(tmp_path: Path) -> None:
    one = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", one, sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--print-config"]
    done = subprocess.run(
        [*command, "api.server:app"],
        cwd=REPOSITORY,
        env={**os.environ, "DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert re.search(r"^workers += 2$", done.stdout, re.MULTILINE)
