"""A service whose folder is another database's serves nothing, takes nothing, and goes on once that is mended."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import sqlalchemy

from tests.end_to_end.service import ADMIN_TOKEN, Service, load_demo, recs

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
