"""The DATA_DIR that the release at commit 5484959 left (make_old_data_dir.py), as it was in the minute after."""

from __future__ import annotations

import json
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import sqlalchemy
from sqlalchemy.engine import Engine

from recommendation_service.demo.schema import metadata
from recommendation_service.flush.migrations import migrate
from recommendation_service.memory.memory_file import BOOT_FILE, BOOT_ID, FORMAT
from recommendation_service.ranking.seen import EPOCH
from tests.support.old_tables import make_table_of

ARCHIVE = Path(__file__).with_name("data_dir_5484959.tar.xz")
TABLES = ("recs_events", "activity_log")


@dataclass(frozen=True)
class OldDataDir:
    """``database``: its SQLite file. The rest is what was done, and acknowledged, there."""

    data_dir: Path
    database: Path
    users: list[int]  # 0: an anonymous one, of the session
    session: str
    feeds: list[dict[str, Any]]
    events: list[dict[str, Any]]


def unpacked(folder: Path) -> OldDataDir:
    """As if the upgrade came in the boot of the machine in which it was written: another memory is begun anew."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    data_dir = folder / "data"
    (data_dir / "seen" / BOOT_FILE).write_text(f"{FORMAT} {BOOT_ID.read_text().strip()}")
    expected = json.loads((data_dir / "expected.json").read_bytes())
    (session,) = expected["sessions"]
    database = data_dir / "interacpedia.sqlite"
    return OldDataDir(data_dir, database, expected["users"], session, expected["feeds"], expected["events"])


def as_of_now(old: OldDataDir) -> None:
    """What its users were served is served just now: the release's memory, with all times moved on."""
    folder = old.data_dir / "seen" / "lmdb"
    environment = lmdb.open(str(folder), max_dbs=4, map_size=(folder / "data.mdb").stat().st_size, sync=False)
    seen = environment.open_db(b"seen", create=False)
    with environment.begin(write=True) as transaction:
        stored = {bytes(key): np.frombuffer(value, "<i8").copy() for key, value in transaction.cursor(db=seen)}
        latest = max(int(entries[1::2].max()) >> 32 for entries in stored.values())
        for key, entries in stored.items():
            entries[1::2] += (int(time.time()) - EPOCH - latest) << 32
            transaction.put(key, entries.tobytes(), db=seen)
    environment.close()
    (folder / "lock.mdb").unlink()


def copy_tables(old: OldDataDir, engine: Engine) -> None:
    """Its tables and rows, in another database's form of them; the operator's other tables are empty."""
    metadata.create_all(engine)
    migrate(engine)
    make_table_of(engine, "5484959")
    source = sqlalchemy.create_engine(f"sqlite:///{old.database}")
    with source.connect() as before, engine.begin() as after:
        for table in TABLES:
            rows = [dict(row) for row in before.execute(sqlalchemy.text(f"SELECT * FROM {table}")).mappings()]
            names, values = ", ".join(rows[0]), ", ".join(f":{name}" for name in rows[0])
            after.execute(sqlalchemy.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), rows)
    source.dispose()
