"""Under a mapping the learner learns from the team's own events, and from rows that its own queries give."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.learner import Learner
from recommendation_service.learning.mapped import learning_of
from recommendation_service.mappings.learned import open_rows
from recommendation_service.policies.choice import begun_with
from recommendation_service.policies.policy import Policy, parse_policy
from recommendation_service.policies.store import PolicyStore
from tests.end_to_end.in_process import make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.integration.test_source_check import EXAMPLES, fill
from tests.servers import wait_until


@pytest.fixture(params=["sqlite", "mariadb"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url: URL = request.getfixturevalue(f"{request.param}_url")
    fill("jobs", url)
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        mapping_file=EXAMPLES / "jobs" / "mapping.toml",
        catalog_refresher=False,
        learner="store",
    )
    built_and_published(settings)
    return settings


def test_events_are_worth_their_weights_and_the_service_s_own_what_the_file_says(tmp_path: Path) -> None:
    def rules(example: str) -> LearningFile:
        return learning_of(Settings(data_dir=tmp_path, mapping_file=EXAMPLES / example / "mapping.toml"))

    jobs = rules("jobs")
    assert {name: rule.reward for name, rule in jobs.rules.items()} == {
        "view": 0.2,
        "apply": 1.0,
        "impression": 0.0,
        "skip": -0.2,
        "hide": -1.0,
    }
    assert dict(jobs.rows) == {"view": {"view": "view"}, "apply": {"apply": "apply"}}
    blog = rules("blog")
    assert [blog.rules["read"].amount(value, None) for value in (0.5, 1.0)] == [0.125, 0.25]
    assert "bookmark" not in blog.rows, "its rows have no time"


def test_the_policy_of_a_mapping_is_the_same_as_a_file(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, mapping_file=EXAMPLES / "blog" / "mapping.toml")
    policy = Policy(parse_policy(begun_with(settings), "the mapping's"))
    assert list(policy.file.kinds_in_use) == ["for_you", "shop"]


def test_what_people_do_with_a_feed_becomes_a_version(jobs: Settings) -> None:
    """An application is sent to /feedback; another is a row that the team's application writes."""
    options = {name: getattr(jobs, name) for name in ("database_url", "mapping_file")}
    engine = make_writing_engine(jobs)
    with served(make_app(jobs.data_dir, **options, event_flusher=False, seen_megabytes=16)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        for user in range(1, 13):
            feed = client.post("/api/feeds/home", json={"user": user, "size": 6}).json()
            event = {"event": "apply", "user_id": user, "item_id": feed["ids"][2], "request_id": feed["request_id"]}
            assert client.post("/api/feedback", json=event).status_code == 202
            with engine.begin() as connection:
                connection.execute(
                    text(
                        "INSERT INTO applications (candidate_id, job_ad_id, status, sent_at) "
                        "VALUES (:user, :item, 'sent', :now)"
                    ),
                    {"user": user, "item": feed["ids"][4], "now": local_now(jobs)},
                )
    engine.dispose()
    file = learning_of(jobs)
    learner = Learner(jobs, file, lambda: time.time() + 60 * file.settle_minutes + 5)
    learner.learn_all()
    totals, problems = learner.totals, learner.status.unread
    learner.close()

    assert problems == {}
    assert totals.events["apply"] == {"request": 12, "table:apply": 12}
    assert sum(totals.slots.values()) == 12 * 5, "what was before the last that was applied for was seen"
    assert set(totals.slots) <= {"for_you", "popular", "new"}
    [version] = [entry for entry in PolicyStore(jobs.policy_dir, 5).versions() if entry == totals.version]
    moved = PolicyStore(jobs.policy_dir, 5).open(version)
    before = Policy(parse_policy(begun_with(jobs), "the mapping's"))
    kind = moved.file.kind_names.index("for_you")
    assert abs(moved.arrays.theta[kind] - before.arrays.theta[kind]).max() > 1e-3


def local_now(settings: Settings) -> str:
    return datetime.now(UTC).astimezone(settings.database_zone).strftime("%Y-%m-%d %H:%M:%S")


def test_rows_are_read_on_from_where_the_last_look_was(jobs: Settings) -> None:
    engine = make_engine(jobs)
    rows = open_rows(jobs, engine, engine.connect)
    with rows.moment(datetime.now(UTC)) as moment:
        whole = moment.read("view", 0, 5_000)
        some = moment.read("view", 0, 100)
        assert some.read_to is not None
        rest = moment.read("view", some.read_to, 5_000)
        assert moment.read("view", whole.last_id, 5_000).rows == []
    engine.dispose()
    numbers = [row.id for row in whole.rows]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers) == 780
    taken = {row.id for row in some.rows} | {row.id for row in rest.rows}
    assert taken == set(numbers)
