"""MYSQL_POOL_SIZE is divided among the processes: at least one connection each, and together no more."""

import pytest

from recommendation_service.core.config import load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.machine import default_workers
from recommendation_service.processes.registry import pool_share

SERVER = {"mysql_host": "127.0.0.1", "mysql_port": 1, "mysql_user": "recs"}
PROCESSES = ("refresher", "flusher", "worker")


@pytest.mark.parametrize("workers", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("size", [1, 2, 5, 10, 18, 20, 66, 200])
def test_the_shares_keep_within_the_budget_and_leave_no_process_without(size: int, workers: int) -> None:
    settings = load_settings(mysql_pool_size=size, gunicorn_workers=workers)

    refresher, flusher, worker = (pool_share(settings, name).connections for name in PROCESSES)

    assert 1 <= refresher <= 2
    assert 1 <= flusher <= 4
    assert worker >= 1
    assert refresher + flusher + workers * worker <= max(size, workers + 2)


def test_the_default_budget_with_eight_workers_is_below_the_guides_thirty_connections() -> None:
    settings = load_settings(gunicorn_workers=8)

    assert [pool_share(settings, name).connections for name in PROCESSES] == [2, 4, 1]


def test_few_workers_have_more_each() -> None:
    assert pool_share(load_settings(gunicorn_workers=2), "worker").connections == 7


def test_without_a_number_of_workers_it_is_the_one_that_gunicorn_gets() -> None:
    workers = default_workers()

    assert pool_share(load_settings(), "worker") == pool_share(load_settings(gunicorn_workers=workers), "worker")


def test_a_pool_has_its_processs_share(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(**SERVER, gunicorn_workers=8)
    engine = make_engine(settings, pool_share(settings, "flusher"))

    assert engine.pool.size() == 4  # type: ignore[attr-defined]
    said = "".join(capsys.readouterr())
    assert "Connection pool inicializado: 20 conexiones a 127.0.0.1:1/interacpedia" in said
    assert "most_of_this_process=4" in said


@pytest.mark.parametrize("size", [1, 5, 20, 66])
def test_a_learner_has_one_of_them_where_there_is_one(size: int) -> None:
    settings = load_settings(mysql_pool_size=size, gunicorn_workers=2, learner="store")

    shares = [pool_share(settings, name).connections for name in (*PROCESSES, "learner")]

    assert shares[-1] == 1
    assert sum(shares) + shares[2] <= max(size, 2 + 3)
