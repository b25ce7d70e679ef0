"""A leased process that does nothing: it says that it runs, and that it carried out what was asked of it.

python -m tests.support.leased_process, with DATA_DIR in the environment
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.processes.parent import end_with_parent
from recommendation_service.processes.registry import LeasedProcess
from recommendation_service.processes.requests import asked

IDLER = LeasedProcess(
    name="idler",
    module="tests.support.leased_process",
    folder=lambda settings: settings.data_dir / "idler",
    is_wanted=lambda _settings: True,
    request_file="idle.request",
    answer="idle_token",
    most_connections=3,
)

if __name__ == "__main__":
    end_with_parent()
    folder = Path(os.environ["DATA_DIR"]) / "idler"
    make_folder(folder)
    while True:
        write_whole(folder / IDLER.status_file, json.dumps({"pid": os.getpid(), IDLER.answer: asked(IDLER, folder)}))
        time.sleep(0.01)
