"""Marks that people give, of which the bad ones count for no item and teach that it was none for them."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.learning.learner import Learner
from recommendation_service.learning.mapped import learning_of
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.reading import read
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.integration.test_mapped_learning import local_now
from tests.integration.test_source_check import changed, fill
from tests.servers import wait_until

EVENT = """[events.rating]
query = "SELECT user_id, item_id, mark, rated_at FROM ratings"
time = "rated_at"
value = "mark"
marks = [1, 10]
weight = 2.5

[filters.city]"""


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url: URL = request.getfixturevalue(f"{request.param}_url")
    fill("jobs", url)
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE ratings (user_id INTEGER, item_id INTEGER, mark NUMERIC(3, 1), rated_at TIMESTAMP)"
        )
        rows = ", ".join(
            f"(1, {item}, {mark}, '2026-10-01 12:00:00')" for item, mark in ((1, 1), (2, 5.5), (3, 6), (4, 10))
        )
        connection.exec_driver_sql(f"INSERT INTO ratings VALUES {rows}, (1, 5, NULL, '2026-10-01 12:00:00')")
    engine.dispose()
    return Settings(
        data_dir=tmp_path / "data",
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        mapping_file=changed(tmp_path, "jobs", ("[filters.city]", EVENT)),
        catalog_refresher=False,
        learner="store",
    )


def test_marks_up_to_the_middle_count_for_no_item_and_the_best_counts_the_weight(jobs: Settings) -> None:
    assert jobs.mapping_file is not None
    engine = make_writing_engine(jobs)
    with engine.connect() as connection:
        events = read(load_mapping(jobs.mapping_file), connection).events["rating"]
    engine.dispose()
    assert dict(zip(events.items.tolist(), events.weights.tolist(), strict=True)) == {3: 1.5, 4: 2.5}


def test_a_bad_mark_teaches_the_learner_that_the_item_was_none_for_whom_it_was_shown(jobs: Settings) -> None:
    """Whether it is sent to /feedback or a row that the team's application writes."""
    built_and_published(jobs)
    options = {name: getattr(jobs, name) for name in ("database_url", "mapping_file")}
    engine = make_writing_engine(jobs)
    with served(make_app(jobs.data_dir, **options, event_flusher=False, seen_megabytes=16)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        for user, mark in ((1, 1), (2, 5.5), (3, 10)):
            feed = client.post("/api/feeds/home", json={"user": user, "size": 6}).json()
            event = {"event": "rating", "user_id": user, "item_id": feed["ids"][1], "request_id": feed["request_id"]}
            assert client.post("/api/feedback", json=event | {"value": mark}).status_code == 202
            for wrong in (0.5, 11):
                answer = client.post("/api/feedback", json=event | {"value": wrong})
                assert answer.status_code == 422
                [problem] = answer.json()["error"]["details"]
                assert problem == {"field": "value", "problem": f"must be a mark from 1 to 10, but is {wrong:g}"}
            with engine.begin() as connection:
                statement = text("INSERT INTO ratings VALUES (:user, :item, :mark, :now)")
                row = {"user": user, "item": feed["ids"][3], "mark": mark, "now": local_now(jobs)}
                connection.execute(statement, row | {"now": datetime.fromisoformat(row["now"])})
        [document] = [
            one
            for one in client.get("/openapi.json").json()["components"]["schemas"]["FeedbackEvent"]["anyOf"]
            if one["properties"]["event"]["const"] == "rating"
        ]
    engine.dispose()
    assert (document["properties"]["value"]["minimum"], document["properties"]["value"]["maximum"]) == (1, 10)
    learner = Learner(jobs, learning_of(jobs), lambda: time.time() + 5)
    while learner.step():
        pass
    with closing(sqlite3.connect(learner.ledger.path)) as database:
        told = database.execute("SELECT source, reward FROM happenings WHERE event = 'rating'").fetchall()
    learner.close()
    # Half of what an application is worth, which weighs 5, from -1 of the worst to 1 of the best.
    assert sorted(told) == [(source, worth) for source in ("request", "table:rating") for worth in (-0.5, 0.0, 0.5)]


def test_what_a_mapping_says_wrongly_of_marks_is_told_at_once(tmp_path: Path) -> None:
    wrong = EVENT.replace("[1, 10]", "[5, 1]").replace('value = "mark"\n', "")
    with pytest.raises(ConfigurationError) as raised:
        load_mapping(changed(tmp_path, "jobs", ("[filters.city]", wrong)))
    said = "; ".join(raised.value.problems)
    assert "the worst mark comes first" in said
    assert "write [1.0, 5.0]" in said
    assert "no column holds the marks" in said
