"""A service whose folder is another database's serves nothing, takes nothing, and goes on once that is mended."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy

from tests.end_to_end.service import ADMIN_TOKEN, Service, load_demo, recs
from tests.servers import PrivateRedis

VIEW = {"event": "view", "user_id": 5, "item_type": "resume", "item_id": 3}


def test_nothing_of_one_database_is_served_for_another_or_reaches_it(tmp_path: Path) -> None:
    demo = load_demo(tmp_path / "demo")
    addresses = []
    for number, name in enumerate(("shop.sqlite", "shop.sqlite", "other.sqlite")):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        shutil.copy(demo, path)
        addresses.append(f"sqlite:///{path}")
    settings = {"FLUSH_INTERVAL_SECONDS": "3600", "SEEN_MEGABYTES": "16"}
    folder = tmp_path / "service"
    with Service.uvicorn(folder, {**settings, "DATABASE_URL": addresses[0]}) as service:
        service.wait_until_ready()
        assert service.client.post("/api/feedback", json=VIEW).status_code == 202
        os.kill(service.process.pid, signal.SIGKILL)  # so that its event waits
        service.process.wait()
    for address in addresses[1:]:
        with Service.uvicorn(folder, {**settings, "DATABASE_URL": address}) as service:
            service.wait_until_alive()
            ready = service.get("/ready")
            assert ready.status_code == 503
            assert "belongs to the database shop.sqlite" in ready.json()["error"]["message"]
            assert service.client.post("/api/search/total", json={"SELF_ID": 5}).status_code == 503
            assert service.client.post("/api/feedback", json=VIEW).status_code == 503
            administrator = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            assert service.client.delete("/api/users/5", headers=administrator).status_code == 503
            assert service.metric("recs_ready") == 0
            assert rows(address) == 0
            if address == addresses[-1]:
                done = recs("data", "adopt", "--yes", folder=folder, settings={"DATABASE_URL": address})
                assert done.returncode == 0, done.stderr
                service.wait_until_ready()


def test_services_of_two_databases_on_one_redis_know_nothing_of_each_other(tmp_path: Path, redis: PrivateRedis) -> None:
    demo = load_demo(tmp_path / "demo")
    settings = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "REDIS_PASSWORD": redis.password,
        "REDIS_TIMEOUT_MILLISECONDS": "1000",
        "FLUSH_INTERVAL_SECONDS": "1",
        "SEEN_MEGABYTES": "16",
    }
    with ExitStack() as stack:
        addresses, services = [], []
        for name in ("shop", "other"):
            path = tmp_path / name / f"{name}.sqlite"
            path.parent.mkdir()
            shutil.copy(demo, path)
            addresses.append(f"sqlite:///{path}")
            service = Service.uvicorn(tmp_path / f"of-{name}", {**settings, "DATABASE_URL": addresses[-1]})
            services.append(stack.enter_context(service))
        for service in services:
            service.wait_until_ready()
        shop, other = services
        key = {"Idempotency-Key": "one"}
        answers = [each.client.post("/api/search/total", json={"SELF_ID": 5}, headers=key).json() for each in services]
        assert answers[0]["body"]["request_id"] != answers[1]["body"]["request_id"]
        item = other.feed(SELF_ID=6, N_VIDEOS=1)["items"][0]
        hide = {"event": "hide", "user_id": 6, "item_type": "creator", "item_id": item["user_id"], "event_id": "hidden"}
        assert shop.client.post("/api/feedback", json=hide).status_code == 202
        added = {"operation": "stream_add", "outcome": "done"}
        assert [each.metric("recs_redis_operations_total", **added) for each in services] == [1, 0]
        assert item["user_id"] not in {shown["user_id"] for shown in shop.feed(SELF_ID=6, N_VIDEOS=100)["items"]}
        assert item["user_id"] in {shown["user_id"] for shown in other.feed(SELF_ID=6, N_VIDEOS=100)["items"]}
        assert other.client.post("/api/feedback", json={**VIEW, "event_id": "seen"}).status_code == 202
        for address, event in zip(addresses, ("hidden", "seen"), strict=True):
            shop.wait_until(lambda address=address, event=event: events_in(address) == [event])


def events_in(address: str) -> list[str]:
    """What people did, as far as it is in recs_events."""
    engine = sqlalchemy.create_engine(address)
    try:
        if not sqlalchemy.inspect(engine).has_table("recs_events"):
            return []
        with engine.connect() as connection:
            return list(connection.exec_driver_sql("SELECT event_id FROM recs_events WHERE event <> 'feed'").scalars())
    finally:
        engine.dispose()


def rows(address: str) -> int:
    """Of recs_events; none where it is not there."""
    engine = sqlalchemy.create_engine(address)
    try:
        if not sqlalchemy.inspect(engine).has_table("recs_events"):
            return 0
        with engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT COUNT(*) FROM recs_events").scalar_one())
    finally:
        engine.dispose()
