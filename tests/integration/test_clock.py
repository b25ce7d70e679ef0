"""A running service whose CLOCK_REALTIME is shifted under it, and back: by a day, by months, by more than a year."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.engine import URL, Engine

from recommendation_service.demo import load_invented
from recommendation_service.flush.flusher_status import read_status
from recommendation_service.processes.registry import FLUSHER
from recommendation_service.processes.requests import ask
from tests.end_to_end.service import ADMIN_TOKEN, Service
from tests.servers import find_program

DAY = 86_400
SHIM = Path(__file__).parents[1] / "support" / "clock_shift.c"
ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
USER, FORGOTTEN = 5, 777


class Shift:
    """The clock of what runs with ``settings``: ``days`` ahead of this machine's."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock_shift.so", folder / "shift"
        compiler = find_program("gcc", "gcc")
        subprocess.run([compiler, "-shared", "-fPIC", "-nostdlib", "-O2", "-o", library, SHIM], check=True)
        self.settings = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(self._file)}
        self._file.write_bytes(bytes(8))

    def set(self, days: float) -> None:
        with self._file.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("=q", int(days * DAY)))


@pytest.fixture
def shift(tmp_path: Path) -> Shift:
    return Shift(tmp_path)


@pytest.fixture
def engine(mariadb_url: URL) -> Iterator[Engine]:
    made = sqlalchemy.create_engine(mariadb_url, poolclass=sqlalchemy.NullPool)
    load_invented(made, scale=0.05)
    yield made
    made.dispose()


def started(folder: Path, engine: Engine, shift: Shift, **settings: str) -> Service:
    ours = {
        "DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "FLUSH_INTERVAL_SECONDS": "1",
        "CATALOG_REFRESH_SECONDS": "1",
        "SEEN_MEGABYTES": "64",
    }
    return Service.gunicorn(folder, 2, ours | shift.settings | settings)


def rows(engine: Engine, condition: str = "1 = 1") -> list[tuple[int, float]]:
    """Of feedback: (user, seconds since 1970 at which it was accepted)."""
    received = "TIMESTAMPDIFF(SECOND, '1970-01-01', received_at)"  # whatever the server's time zone
    query = f"SELECT user_id, {received} FROM recs_events WHERE event <> 'feed' AND {condition}"
    with engine.connect() as connection:
        return [(int(user), float(received)) for user, received in connection.execute(text(query))]


def act(service: Service, user: int, item: int, event: str = "view") -> None:
    body = {"event": event, "user_id": user, "item_type": "resume", "item_id": item}
    answer = service.client.post("/api/feedback", json=body)
    assert answer.status_code == 202, answer.text


def flush(service: Service) -> None:
    token = ask(FLUSHER, service.data_dir / "events")
    service.wait_until(lambda: str(getattr(read_status(service.data_dir / "events"), "flush_token", "")) >= token)


def shown(service: Service, user: int) -> set[Any]:
    body = service.feed("discover", SELF_ID=user, N_VIDEOS=5)
    assert len(body["items"]) == 5
    return {item["id"] for item in body["items"]}


def certain_and_agreed(service: Service) -> bool:
    return service.metric("recs_clock_certain") == 1 and service.metric("recs_clock_disagrees") == 0


def test_a_service_whose_clock_is_moved_goes_on_and_keeps_what_it_promised(
    tmp_path: Path, engine: Engine, shift: Shift
) -> None:
    with started(tmp_path, engine, shift, CLOCK_WAIT_SECONDS="2") as service:
        service.wait_until_ready()
        counts = service.get("/ready").json()["counts"]
        act(service, USER, 1)
        flush(service)
        service.wait_until(lambda: certain_and_agreed(service))
        seen: set[Any] = set()
        for number, days in enumerate((1, -1, 60, -60, 450, -450, 0)):
            shift.set(days)
            fresh = shown(service, USER)  # before anybody has looked at the clock
            assert not fresh & seen, "what was served stays away"
            seen |= fresh
            service.wait_until(lambda wrong=days != 0: (service.metric("recs_clock_disagrees") == 1) is wrong)
            problems = service.get("/ready").json()["problems"]
            assert any("clock" in problem for problem in problems) is (days != 0), problems
            fresh = shown(service, USER)
            assert not fresh & seen
            seen |= fresh
            # Forgotten, and then back: what comes afterwards counts.
            act(service, FORGOTTEN, 1)
            shift.set(-days)
            assert service.client.delete(f"/api/users/{FORGOTTEN}", headers=ADMINISTRATOR).status_code == 200
            shift.set(days)
            act(service, FORGOTTEN, 2)
            # Tokens: what is asked for is carried out, though the last token is of another time.
            flush(service)
            assert len(rows(engine, f"user_id = {FORGOTTEN}")) == 1
            assert service.reload().status_code == 200
            assert service.get("/ready").json()["counts"]["videos"] == counts["videos"]
            act(service, USER, number + 2)
        flush(service)
        service.wait_until(lambda: certain_and_agreed(service))
        mine = rows(engine, f"user_id = {USER}")
        assert len(mine) == 8
        assert all(abs(received - time.time()) < 600 for _, received in mine), "accepted now, and in no other year"
        assert "Traceback" not in service.log


def test_a_service_that_starts_with_a_clock_that_is_ahead_deletes_nothing_until_it_is_right(
    tmp_path: Path, engine: Engine, shift: Shift
) -> None:
    with started(tmp_path / "first", engine, shift) as service:
        service.wait_until_ready()
        for item in range(1, 6):
            act(service, USER, item)
        flush(service)
    assert len(rows(engine)) == 5
    old = "UPDATE recs_events SET happened_at = '2020-01-01' WHERE item_id = 5"
    shift.set(450)
    with started(tmp_path / "second", engine, shift, CLOCK_WAIT_SECONDS="2") as service:
        service.wait_until_ready()
        videos = service.get("/ready").json()["counts"]["videos"]
        service.wait_until(lambda: service.metric("recs_clock_disagrees") == 1)
        assert abs(service.metric("recs_clock_machine_ahead_seconds") - 450 * DAY) < 600
        assert service.reload().status_code == 200
        assert service.get("/ready").json()["counts"]["videos"] >= videos > 20, "windows go by the database's clock"
        flush(service)
        assert len(rows(engine)) == 5
        with engine.begin() as connection:
            connection.execute(text(old))
        shift.set(0)
        service.wait_until(lambda: certain_and_agreed(service))
        service.wait_until(lambda: len(rows(engine)) == 4)  # what is really too old
        flush(service)
        assert len(rows(engine)) == 4
