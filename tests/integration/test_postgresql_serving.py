"""Feeds from PostgreSQL: the three examples served from it, and the service as it runs, its processes and tables."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import URL

from examples.world import run
from recommendation_service.bootstrap import create_app
from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.mappings.opening import open_source
from recommendation_service.policies.choice import PolicyChoice
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS, Service
from tests.postgresql import PrivatePostgreSQL
from tests.servers import wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def fill(example: str, url: URL) -> None:
    module = importlib.import_module(f"examples.{example}.__main__")
    address = url.render_as_string(hide_password=False)
    assert run(example, module.METADATA, module.make, [address, "--people", "60"]) == 0


def settings_for(url: URL, example: str, folder: Path, **more: Any) -> Settings:
    shown = url.render_as_string(hide_password=False)
    return Settings(database_url=shown, mapping_file=EXAMPLES / example / "mapping.toml", data_dir=folder, **more)


def build(settings: Settings) -> str:
    engine = make_engine(settings)
    try:
        built = build_catalog(open_source(settings, engine), settings, PolicyChoice(settings).policy)
    finally:
        engine.dispose()
    return CatalogStore(settings.catalog_dir, keep=2).publish(built)


@pytest.mark.parametrize("example", ["jobs", "music", "blog"])
def test_an_example_is_served(example: str, postgresql_url: URL, tmp_path: Path) -> None:
    fill(example, postgresql_url)
    settings = settings_for(postgresql_url, example, tmp_path)
    build(settings)
    app = make_app(
        tmp_path,
        database_url=settings.database_url,
        mapping_file=settings.mapping_file,
        event_flusher=False,
        seen_megabytes=16,
    )
    with served(app) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS), client.get("/ready").text
        feeds = [path for path in client.get("/openapi.json").json()["paths"] if re.fullmatch(r"/api/feeds/\w+", path)]
        assert feeds
        for feed in feeds:
            answer = client.post(feed, json={"size": 8})
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["ids"]) == 8


def test_without_a_mapping_it_is_said_what_is_missing(postgresql_url: URL, tmp_path: Path) -> None:
    shown = postgresql_url.render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match=r"no MAPPING_FILE .*`recs source init DATABASE_URL` writes one"):
        create_app(Settings(database_url=shown, data_dir=tmp_path))


# The service as it runs.


@pytest.fixture(scope="module")
def jobs_url(postgresql: PrivatePostgreSQL) -> Iterator[URL]:
    postgresql.execute("CREATE DATABASE serving_jobs")
    url = postgresql.url("serving_jobs")
    fill("jobs", url)
    yield url
    postgresql.execute("DROP DATABASE serving_jobs WITH (FORCE)")


@pytest.fixture(scope="module")
def service(jobs_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("postgresql-service")
    settings = {
        "DATABASE_URL": jobs_url.render_as_string(hide_password=False),
        "MAPPING_FILE": str(EXAMPLES / "jobs" / "mapping.toml"),
        "CATALOG_REFRESH_SECONDS": "2",
        "EVENT_FLUSH_SECONDS": "1",
    }
    with Service.uvicorn(folder, settings) as service:
        service.wait_until_ready()
        yield service


def test_a_new_item_is_in_feeds_without_a_restart(
    service: Service, postgresql: PrivatePostgreSQL, jobs_url: URL
) -> None:
    before = service.catalog()
    postgresql.execute(
        "INSERT INTO job_ads (id, company_id, title, state, published_at) "
        "VALUES (900001, 1, 'Keeper of the light', 'open', now() AT TIME ZONE 'UTC')",
        database=str(jobs_url.database),
    )
    assert wait_until(lambda: service.catalog() != before, PATIENCE_SECONDS), service.log
    shown: set[Any] = set()

    def is_shown() -> bool:
        shown.update(feed(service.client)["ids"])
        return 900001 in shown

    assert wait_until(is_shown, PATIENCE_SECONDS)


def feed(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/feeds/home", json={"size": 24, **body})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content
