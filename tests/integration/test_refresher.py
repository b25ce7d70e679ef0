"""The process that builds catalogs, beside a real service and a real MariaDB that stop, hang and die."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import sqlalchemy

from recommendation_service.api.explanations import CALLS_PER_SECOND
from recommendation_service.bootstrap import ADMINISTRATION_THREADS
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.demo import load_invented
from recommendation_service.processes.registry import REFRESHER
from recommendation_service.processes.requests import ask
from recommendation_service.sources.blacklist import QUIET_SECONDS
from tests.end_to_end.service import ADMIN_TOKEN, Service, damaged_copy, parent_of
from tests.servers import LOOPBACK, NO_AUTHORITIES, PrivateMariaDB, wait_until

DATABASE = "interacpedia"
REFRESH_SECONDS = 2
# What the contract promises for the default interval; so long is generous for two seconds.
IN_FEEDS_WITHIN_SECONDS = 10.0
# systemd kills what has not stopped by then.
STOPPED_WITHIN_SECONDS = 30.0
# Uvicorn, once it has closed everything, ends by the signal that it was sent.
STOPPED = {0, -signal.SIGTERM}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMariaDB]:
    """With the demo in it. Not the server of the whole run: the tests here stop and freeze it."""
    folder = tmp_path_factory.mktemp("refresher-mariadb")
    with PrivateMariaDB(folder) as server:
        engine = sqlalchemy.create_engine(server.url(DATABASE), poolclass=sqlalchemy.NullPool)
        load_invented(engine, scale=0.02)
        engine.dispose()
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def running_database(database: PrivateMariaDB) -> Iterator[PrivateMariaDB]:
    """Runs, and runs again after a test that stopped or froze it."""
    yield database
    if database.is_running:
        database.resume()
    database.start()


@pytest.fixture(scope="module")
def shared_service(database: PrivateMariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.uvicorn(tmp_path_factory.mktemp("refresher-service"), settings_for(database)) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def service(shared_service: Service, running_database: PrivateMariaDB) -> Service:
    """Ready, with builds that succeed."""
    shared_service.wait_until(
        lambda: shared_service.get("/ready").status_code == 200 and build_failures(shared_service) == 0
    )
    return shared_service


def settings_for(database: PrivateMariaDB) -> dict[str, str]:
    return {
        "MYSQL_HOST": LOOPBACK,
        "MYSQL_PORT": str(database.port),
        "MYSQL_USER": database.user,
        "MYSQL_PASSWORD": database.password,
        "MYSQL_DB": DATABASE,
        "MYSQL_CONNECT_TIMEOUT_SECONDS": "2",
        "MYSQL_READ_TIMEOUT_SECONDS": "2",
        "CATALOG_REFRESH_SECONDS": str(REFRESH_SECONDS),
    }


def build_failures(service: Service) -> float:
    return service.metric("recs_catalog_build_failures")


def ask_for_a_reload_and_leave(service: Service) -> None:
    """As a person does who presses Ctrl-C."""
    with httpx.Client(base_url=service.address, timeout=1.0) as caller, pytest.raises(httpx.ReadTimeout):
        caller.post("/api/search/reload", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})


def wait_for_a_build_that_hangs(service: Service, database: PrivateMariaDB) -> None:
    """Asks for a build, and returns when it waits for a database that is frozen."""
    ask(REFRESHER, service.data_dir / "catalogs")
    (refresher,) = service.refreshers
    service.wait_until(lambda: waits_for_an_answer(refresher, database.port))


def waits_for_an_answer(pid: int, port: int) -> bool:
    """Whether the process sent something to the server on this port that the server has not taken."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    opened = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    server = f":{port:04X}"
    # Columns: 1 own address, 2 the other's, 4 bytes to send and to read, 9 the socket's number.
    ours = {row[1] for row in rows if row[2].endswith(server) and f"socket:[{row[9]}]" in opened}
    return any(row[1].endswith(server) and row[2] in ours and int(row[4].split(":")[1], 16) > 0 for row in rows)


def insert_video(database: PrivateMariaDB, address: str) -> str:
    """A résumé video by somebody who has one already; its number."""
    in_demo = f"{DATABASE}.resumes"
    database.execute(
        f"INSERT INTO {in_demo} (user_id, video, description, status, created_at, updated_at) "
        f"SELECT u.id, '{address}', 'A new one', 'send', UTC_TIMESTAMP(), UTC_TIMESTAMP() "
        f"FROM {DATABASE}.users u WHERE u.deleted_at IS NULL AND u.name <> '' ORDER BY u.id LIMIT 1"
    )
    engine = sqlalchemy.create_engine(database.url(DATABASE), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT id FROM resumes WHERE video = :a"), {"a": address})
        return str(found.scalar_one())


def shown(service: Service) -> set[str]:
    """The numbers of all résumé videos in feeds: the demo has fewer than a feed can have."""
    ids = service.feed("discover", N_VIDEOS=100)["resume_ids"]
    assert len(ids) < 100
    return set(ids)


# A database that is down or hangs.


def test_a_service_that_starts_before_its_database_becomes_ready_by_itself(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    running_database.stop()
    settings = settings_for(running_database)
    with Service.uvicorn(tmp_path, settings) as service:
        service.wait_until_alive()
        service.wait_until(lambda: str(running_database.port) in service.get("/ready").text)
        ready = service.get("/ready")
        assert ready.status_code == 503
        assert int(ready.headers["retry-after"]) >= 1
        reason = ready.json()["error"]["message"]
        assert f"{LOOPBACK}:{running_database.port}/{DATABASE}" in reason
        feed = service.client.post("/api/search/total", json={})
        assert feed.status_code == 503
        assert int(feed.headers["retry-after"]) >= 1
        for answer in (ready, feed):
            assert settings["MYSQL_PASSWORD"] not in answer.text
            assert settings["MYSQL_USER"] not in answer.text
        assert service.get("/health").status_code == 200
        assert service.get("/").json()["status"] == "not ready"

        running_database.start()
        service.wait_until_ready()
        assert len(service.feed()["items"]) == 24
        service.wait_until(lambda: build_failures(service) == 0)
        assert settings["MYSQL_PASSWORD"] not in service.log
        assert service.stop() in STOPPED
        assert service.leaves_nothing()


def test_a_service_that_starts_beside_a_database_that_hangs_says_so(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    running_database.pause()
    with Service.uvicorn(tmp_path, settings_for(running_database)) as service:
        service.wait_until_alive()
        service.wait_until(lambda: str(running_database.port) in service.get("/ready").text)
        assert service.get("/ready").status_code == 503
        assert service.reload().status_code == 503
        running_database.resume()
        service.wait_until_ready()


def test_a_wrong_password_is_the_reason_and_is_not_shown(running_database: PrivateMariaDB, tmp_path: Path) -> None:
    settings = {**settings_for(running_database), "MYSQL_PASSWORD": "not-the-password"}
    with Service.uvicorn(tmp_path, settings) as service:
        service.wait_until_alive()
        service.wait_until(lambda: "denied" in service.get("/ready").text.lower())
        assert "not-the-password" not in service.get("/ready").text
        assert "not-the-password" not in service.log


def test_a_database_that_hangs_changes_nothing_for_feeds(service: Service, running_database: PrivateMariaDB) -> None:
    version = service.catalog()
    running_database.pause()

    def feeds_are_served_until_a_build_failed() -> bool:
        assert len(service.feed()["items"]) == 24
        assert service.catalog() == version
        return build_failures(service) > 0

    service.wait_until(feeds_are_served_until_a_build_failed)
    running_database.resume()
    address = "https://media.example/after-the-database-hung.mp4"
    number = insert_video(running_database, address)
    service.wait_until(lambda: number in shown(service))
    assert build_failures(service) == 0


def test_a_service_stops_while_its_database_hangs(running_database: PrivateMariaDB, tmp_path: Path) -> None:
    settings = {**settings_for(running_database), "MYSQL_READ_TIMEOUT_SECONDS": "3600"}
    with Service.uvicorn(tmp_path, settings) as service:
        service.wait_until_ready()
        running_database.pause()
        wait_for_a_build_that_hangs(service, running_database)
        assert service.stop() in STOPPED
        assert service.leaves_nothing()


def test_a_reload_whose_caller_has_left_does_not_hold_up_a_stop(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    settings = {**settings_for(running_database), "MYSQL_READ_TIMEOUT_SECONDS": "3600"}
    with Service.uvicorn(tmp_path, settings) as service:
        service.wait_until_ready()
        running_database.pause()
        ask_for_a_reload_and_leave(service)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(STOPPED_WITHIN_SECONDS)
        assert service.leaves_nothing()


# What changes is in feeds.


def test_a_new_video_is_in_feeds_in_time_without_a_restart(service: Service, running_database: PrivateMariaDB) -> None:
    started = service.process.pid
    number = insert_video(running_database, "https://media.example/new.mp4")
    service.wait_until(lambda: number in shown(service), IN_FEEDS_WITHIN_SECONDS)
    assert service.process.pid == started
    assert service.process.poll() is None


def test_a_video_that_is_withdrawn_or_deleted_leaves_the_feeds(
    service: Service, running_database: PrivateMariaDB
) -> None:
    numbers = [insert_video(running_database, f"https://media.example/{name}.mp4") for name in ("withdrawn", "deleted")]
    service.wait_until(lambda: set(numbers) <= shown(service))
    running_database.execute(
        f"UPDATE {DATABASE}.resumes SET status = 'draft' WHERE id = {numbers[0]}",
        f"DELETE FROM {DATABASE}.resumes WHERE id = {numbers[1]}",
    )
    service.wait_until(lambda: not set(numbers) & shown(service), IN_FEEDS_WITHIN_SECONDS)


def test_an_edit_of_the_blacklist_takes_effect(service: Service, running_database: PrivateMariaDB) -> None:
    address = "https://media.example/unwanted.mp4"
    number = insert_video(running_database, address)
    service.wait_until(lambda: number in shown(service))
    blacklist = service.data_dir / "blacklist.txt"
    blacklist.write_text(f"# not wanted any more\n{address}\n")
    service.wait_until(lambda: number not in shown(service), IN_FEEDS_WITHIN_SECONDS)
    blacklist.write_text("")
    service.wait_until(lambda: number in shown(service), IN_FEEDS_WITHIN_SECONDS + QUIET_SECONDS)


def test_a_blacklist_that_is_lost_holds_and_is_told_of(service: Service, running_database: PrivateMariaDB) -> None:
    """Also by the build after a restart, of the refresher or of everything: what is kept is a file."""
    address = "https://media.example/never-again.mp4"
    number = insert_video(running_database, address)
    blacklist = service.data_dir / "blacklist.txt"
    blacklist.write_text(f"{address}\n")
    service.wait_until(lambda: service.metric("recs_blacklist_addresses") == 1)
    assert service.get("/ready").json()["problems"] == []

    blacklist.rename(service.data_dir / "moved-away.txt")
    service.wait_until(lambda: service.metric("recs_blacklist_held") == 1)
    assert "blacklist.txt: No such file" in service.get("/ready").json()["problems"][0]
    (before,) = service.refreshers
    os.kill(before, signal.SIGKILL)
    service.wait_until(lambda: len(service.refreshers - {before}) == 1)
    version = service.reload().json()["body"]["catalog"]
    service.wait_until(lambda: service.catalog() == version)
    assert number not in shown(service)
    assert service.metric("recs_blacklist_held") == 1

    blacklist.write_text("")
    service.wait_until(lambda: number in shown(service), IN_FEEDS_WITHIN_SECONDS + QUIET_SECONDS)
    assert service.metric("recs_blacklist_held") == 0
    assert service.get("/ready").json()["problems"] == []


def test_a_blacklist_that_was_never_read_keeps_the_service_from_being_ready(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    """Nor is a catalog served that was built before anybody named a list, unless a setting allows it."""
    named = tmp_path / "named.txt"
    used = settings_for(running_database)
    with Service.uvicorn(tmp_path, used) as service:
        service.wait_until_ready()
    used["BLACKLIST_FILE"] = str(named)
    with Service.uvicorn(tmp_path, used) as service:
        service.wait_until_alive()
        service.wait_until(lambda: "BLACKLIST_REQUIRED=false" in service.get("/ready").text)
        assert service.get("/ready").status_code == 503
        service.wait_until(lambda: "BLACKLIST_REQUIRED=false" in service.reload().text)
        assert service.get("/ready").status_code == 503
        named.write_text("https://media.example/some.mp4\n")
        service.wait_until_ready()
        service.wait_until(lambda: service.metric("recs_blacklist_addresses") == 1)
    (service.data_dir / "blacklist.kept").unlink()
    named.unlink()
    with Service.uvicorn(tmp_path, {**used, "BLACKLIST_REQUIRED": "false"}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: service.metric("recs_blacklist_addresses") == 0)


def test_an_unchanged_database_is_not_read_again_and_again(service: Service) -> None:
    version = service.reload().json()["body"]["catalog"]
    service.wait_until(lambda: service.catalog() == version)
    assert not wait_until(lambda: service.catalog() != version, 2.5 * REFRESH_SECONDS)
    assert service.reload().json()["body"]["catalog"] > version, "but it is where somebody asks for it"


# Reload.


def test_reload_answers_with_the_new_version_and_it_is_served(service: Service) -> None:
    before = service.catalog()
    answer = service.reload()
    assert answer.status_code == 200
    content = answer.json()
    assert content["statusCode"] == 200
    assert content["body"]["status"] == "rebuilt"
    assert content["body"]["catalog"] > before
    service.wait_until(lambda: service.catalog() == content["body"]["catalog"])
    assert len(service.feed()["items"]) == 24


def test_several_reloads_at_once_are_all_answered(service: Service) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(lambda _: service.reload(), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4


def test_reload_while_the_database_is_down_fails_and_the_old_version_serves_on(
    service: Service, running_database: PrivateMariaDB
) -> None:
    running_database.stop()
    store = CatalogStore(service.data_dir / "catalogs", keep=3)
    service.wait_until(lambda: service.catalog() == store.current())
    version = service.catalog()
    answer = service.reload()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    error = answer.json()["error"]
    assert error["code"] == "rebuild_failed"
    assert str(running_database.port) in error["message"]
    assert running_database.password not in answer.text
    assert running_database.user not in answer.text
    assert service.catalog() == version
    assert len(service.feed()["items"]) == 24
    running_database.start()
    service.wait_until(lambda: service.reload().status_code == 200)
    service.wait_until(lambda: service.catalog() > version)


# Damage. Without a refresher, which repairs it: http/test_operations.py.


def test_a_damaged_version_is_refused_while_the_old_one_serves_and_is_replaced(
    service: Service, running_database: PrivateMariaDB
) -> None:
    version = service.catalog()
    store = CatalogStore(service.data_dir / "catalogs", keep=3)
    damaged = damaged_copy(store, version)
    store.point_at(damaged)

    def a_newer_one_serves() -> bool:
        assert len(service.feed()["items"]) == 24
        served = service.catalog()
        assert served != damaged
        return served != version

    service.wait_until(a_newer_one_serves, 30)
    # By the worker that refused it or by the refresher, whichever looked first.
    assert damaged in service.log


def test_a_service_that_starts_on_a_damaged_version_serves_the_one_before(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    with Service.uvicorn(tmp_path, settings_for(running_database)) as service:
        service.wait_until_ready()
        version = service.catalog()
        service.stop()
    store = CatalogStore(tmp_path / "data" / "catalogs", keep=3)
    store.point_at(damaged_copy(store, version))
    with Service.uvicorn(tmp_path, {**settings_for(running_database), "CATALOG_REFRESHER": "false"}) as service:
        service.wait_until_ready()
        assert service.catalog() == version
        assert len(service.feed()["items"]) == 24


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"a\0b\n", b"nope\n", b"../..\n", b"", b"\n"], ids=repr)
def test_a_pointer_that_names_no_version_disturbs_nobody_and_is_replaced(service: Service, content: bytes) -> None:
    version = service.catalog()
    (service.data_dir / "catalogs" / "CURRENT").write_bytes(content)

    def a_new_version_serves() -> bool:
        assert len(service.feed()["items"]) == 24
        return service.catalog() > version

    service.wait_until(a_new_version_serves, 30)


def test_a_folder_that_cannot_be_written_is_the_reason_why_nothing_is_ready(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalogs").write_text("a file in the place of the folder")
    with Service.uvicorn(tmp_path, settings_for(running_database)) as service:
        service.wait_until_alive()
        service.wait_until(lambda: str(tmp_path / "data" / "catalogs") in service.get("/ready").text, 20)
        assert service.get("/ready").status_code == 503
        assert service.reload().status_code == 503
        (tmp_path / "data" / "catalogs").unlink()
        service.wait_until_ready()


# Whoever watches.


def test_what_watches_the_service_answers_while_explanations_wait_for_a_database_that_hangs(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    """And the calls that find no thread are told so. Once the database goes on, they are answered again."""
    patient = {"MYSQL_CONNECT_TIMEOUT_SECONDS": "600", "MYSQL_READ_TIMEOUT_SECONDS": "600"}
    with Service.uvicorn(tmp_path, settings_for(running_database) | patient) as service:
        service.wait_until_ready()
        # The flusher has made the tables, and the catalog is built: nothing that is tried below waits for the first.
        service.wait_until(lambda: service.feed(SELF_ID=1)["items"] != [] and explanation(service).status_code == 404)
        running_database.pause()
        try:
            with ThreadPoolExecutor(ADMINISTRATION_THREADS + REFUSED) as clients:
                calls = []
                for _ in range(ADMINISTRATION_THREADS + REFUSED):
                    calls.append(clients.submit(explanation, service, 120))
                    time.sleep(1.5 / CALLS_PER_SECOND)
                service.wait_until(lambda: sum(call.done() for call in calls) == REFUSED, 60)
                for path in ("/metrics", "/ready", "/health", "/"):
                    assert service.get(path).status_code == 200
                running_database.resume()
                answers = [call.result() for call in calls]
        finally:
            running_database.resume()
        assert sorted(answer.status_code for answer in answers) == [404] * ADMINISTRATION_THREADS + [503] * REFUSED
        assert {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503} == {"5"}
        service.wait_until(lambda: explanation(service).status_code == 404)


REFUSED = 5  # of the explanations that find no thread


def explanation(service: Service, patience_seconds: float = 10) -> httpx.Response:
    """Of a feed that nobody has: it is looked for in the log and in the database."""
    return httpx.get(
        f"{service.address}/api/explain/{'0' * 32}",
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        timeout=patience_seconds,
        verify=NO_AUTHORITIES,
    )


# Processes.


def test_a_refresher_that_is_killed_is_replaced(service: Service, running_database: PrivateMariaDB) -> None:
    (before,) = service.refreshers
    os.kill(before, signal.SIGKILL)
    service.wait_until(lambda: len(service.refreshers - {before}) == 1)
    number = insert_video(running_database, "https://media.example/after-the-kill.mp4")
    service.wait_until(lambda: number in shown(service))
    assert len(service.refreshers) == 1


def test_one_refresher_runs_whatever_happens_to_the_workers(running_database: PrivateMariaDB, tmp_path: Path) -> None:
    with Service.gunicorn(tmp_path, 4, settings_for(running_database)) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == 4 and len(service.refreshers) == 1)
        (refresher,) = service.refreshers
        owner = parent_of(refresher)
        assert owner in service.workers
        os.kill(owner, signal.SIGKILL)

        def another_took_over() -> bool:
            assert len(service.refreshers) <= 1, "two refreshers at once"
            return bool(service.refreshers - {refresher}) and len(service.workers - {owner}) == 4

        service.wait_until(another_took_over)
        (second,) = service.refreshers
        assert parent_of(second) in service.workers
        number = insert_video(running_database, "https://media.example/after-a-worker-died.mp4")
        service.wait_until(lambda: number in shown(service))
        assert service.stop() == 0
        assert service.leaves_nothing(), "something still runs"


def test_nothing_remains_of_a_service_whose_master_was_killed(running_database: PrivateMariaDB, tmp_path: Path) -> None:
    with Service.gunicorn(tmp_path, 2, settings_for(running_database)) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == 2 and len(service.refreshers) == 1)
        os.kill(service.process.pid, signal.SIGKILL)
        service.wait_until(lambda: service.pids <= {service.process.pid}, 30)


def test_a_worker_killed_while_the_database_hangs_leaves_no_refresher_behind(
    running_database: PrivateMariaDB, tmp_path: Path
) -> None:
    """The process waits for the database, and must end with its worker all the same: otherwise nobody else
    builds until the time limit on reading is over."""
    settings = {**settings_for(running_database), "MYSQL_READ_TIMEOUT_SECONDS": "3600"}
    with Service.gunicorn(tmp_path, 2, settings) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.refreshers) == 1)
        (refresher,) = service.refreshers
        running_database.pause()
        wait_for_a_build_that_hangs(service, running_database)
        os.kill(parent_of(refresher), signal.SIGKILL)
        service.wait_until(lambda: refresher not in service.refreshers, 30)
        running_database.resume()
        service.wait_until(lambda: len(service.refreshers) == 1)
