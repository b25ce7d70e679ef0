"""Makes tests/support/data_dir_5484959.tar.xz: a DATA_DIR as the release at commit 5484959 left it, of invented people.

    git worktree add ../old 5484959 && cd ../old && make setup
    .venv/bin/python ../HERE/tests/support/make_old_data_dir.py ../HERE/tests/support/data_dir_5484959.tar.xz

It is run in that release's checkout, with its modules. What was done is in ``expected.json``: some of it is in the
database (half-way the log was flushed), the rest waits in the log, and all of it is in the memory of users.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))

from recommendation_service.events.flusher import Flusher
from recommendation_service.events.tables import make_writing_engine

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import load_settings
from recommendation_service.demo.schema import metadata
from tests.end_to_end.in_process import make_app, served
from tests.support.catalogs import build
from tests.support.worlds import random_world

USERS = (100_001, 100_002)
SESSION = "session of nobody"


def main(output: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        data_dir.mkdir()
        database = data_dir / "interacpedia.sqlite"
        database.touch()
        options = {"database_url": f"sqlite:///{database}", "event_flusher": False, "seen_megabytes": 16}
        settings = load_settings(data_dir=data_dir, **options)
        engine = make_writing_engine(settings)
        metadata.tables["activity_log"].create(engine)
        world = random_world(7, videos=90, challenges=30, users=4, longest_history=3)
        CatalogStore(settings.catalog_dir, keep=1).publish(build(world))
        expected: dict[str, list[Any]] = {"users": [*USERS, 0], "sessions": [SESSION], "feeds": [], "events": []}
        with served(make_app(data_dir, **options)) as client:
            for half in (1, 2):
                for user in (*USERS, 0):
                    asked = {"user_id": user, "size": 6, "session_id": SESSION}
                    answer = client.post("/api/search/total", json=asked).raise_for_status().json()["body"]
                    items = [[item["type"], int(item["id"])] for item in answer["items"]]
                    expected["feeds"].append({"request_id": answer["request_id"], "user_id": user, "items": items})
                    for place, (name, (item_type, item_id)) in enumerate(
                        zip(("impression", "like", "hide"), items, strict=False)
                    ):
                        event = {"event": name, "user_id": user, "item_type": item_type, "item_id": item_id}
                        event |= {"event_id": f"{half}-{user}-{place}", "session_id": SESSION}
                        client.post("/api/feedback", json=event).raise_for_status()
                        expected["events"].append(event)
                creator = {"event": "hide", "user_id": USERS[0], "item_type": "creator", "item_id": half}
                creator["event_id"] = f"{half}-creator"
                client.post("/api/feedback", json=creator).raise_for_status()
                expected["events"].append(creator)
                if half == 1:
                    flusher = Flusher(settings, engine)
                    assert flusher.flush_all(), flusher.status.error
                    flusher.tell()
        engine.dispose()
        (data_dir / "expected.json").write_text(json.dumps(expected, indent=1))
        with tarfile.open(output, "w:xz", format=tarfile.GNU_FORMAT) as archive:
            archive.add(data_dir, "data", filter=nobodys)


def nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without the name of who made it, and what is of that machine alone."""
    if Path(entry.name).name in ("boot", "lock.mdb", "holder.lock"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]))
