"""What the flusher's process does with decisions: those that are too old go, and those of whom the fleet forgets."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr

from recommendation_service.core.config import Settings
from recommendation_service.flush.housekeeping import Housekeeping
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.decisions import DecisionRecord, DecisionWriter, read_decisions
from recommendation_service.log.records import now_ms

DAY_SECONDS = 86_400


class Fleet:
    """Was told to forget user 7."""

    def remove(self, entries: list[bytes]) -> None:
        raise AssertionError(entries)

    def abandoned(self) -> list[tuple[bytes, list[bytes]]]:
        return []

    def forgotten(self) -> dict[int, tuple[int, int]]:
        return {7: (now_ms(), 0)}


def settings_for(folder: Path) -> Settings:
    database = folder / "database.sqlite"
    database.touch()
    return Settings(
        database_url=SecretStr(f"sqlite:///{database}"), data_dir=folder / "data", decision_retention_days=30
    )


def write(folder: Path, user_id: int) -> None:
    writer = DecisionWriter(folder, 1 << 30)
    writer.append(DecisionRecord(bytes(16), user_id, 0, now_ms() - 1000, 24, "c", "p", 1, True, 0.05, b"packed"))
    writer.close()


def users(folder: Path) -> list[int]:
    return [record.user_id for record in read_decisions(folder)]


def test_decisions_that_are_too_old_are_deleted_where_the_others_stay(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    for user_id, age_days in ((1, 31), (2, 29)):
        write(settings.decisions_dir, user_id)
        written = now_ms() / 1000 - age_days * DAY_SECONDS
        os.utime(max(settings.decisions_dir.iterdir()), (written, written))
    Housekeeping(settings, make_writing_engine(settings), None).step()
    assert users(settings.decisions_dir) == [2]


def test_whom_the_fleet_forgets_has_no_decision_here(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    for user_id in (7, 8):
        write(settings.decisions_dir, user_id)
    Housekeeping(settings, make_writing_engine(settings), Fleet()).forget_with_the_fleet()
    assert users(settings.decisions_dir) == [8]
