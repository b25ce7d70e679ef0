"""Under a mapping what is shipped is what its file begins with, and not the first operator's policy."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.policies.choice import PolicyChoice, shipped
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.store import PolicyStore
from recommendation_service.serving.generation import Serving
from recommendation_service.telemetry.metrics import Metrics
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.servers import wait_until
from tests.support.job_board import handle_of, make_job_board

DEED = Deed(datetime(2026, 1, 1, tzinfo=UTC), "somebody", "to try it")
LATER = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")
ADDED = b'\n[[added_features]]\nname = "age_in_months"\ncolumn = "age_days"\nscale = 30.0\n'


@pytest.fixture
def board(tmp_path: Path) -> Settings:
    address, mapping = make_job_board(tmp_path, ads=60, candidates=40)
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=address,
        mapping_file=mapping,
        catalog_refresher=False,
        event_flusher=False,
        decision_share=1.0,
    )
    built_and_published(settings)
    return settings


def test_a_start_with_a_version_that_the_catalog_does_not_suit_serves_what_the_mapping_begins_with(
    board: Settings,
) -> None:
    """The first operator's policy suits no mapping's catalog: nothing was served until another was built."""
    version = PolicyStore(board.policy_dir, 5).publish(shipped(board) + ADDED, None, DEED)
    policies = PolicyChoice(board).take_up()
    serving = Serving(board, CatalogStore(board.catalog_dir, 2), policies, Metrics())

    assert serving.load_current()
    assert serving.policy.version == policies.shipped.version
    assert "home" in serving.policy.file.feeds
    [problem] = serving.policy_problems
    assert version in problem
    assert "age_in_months" in problem


def test_feeds_of_before_the_first_version_weigh_another_policy(
    board: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = board.model_dump(include={"database_url", "mapping_file", "event_flusher", "decision_share"})
    with logs_left_alone(), served(make_app(board.data_dir, **options, seen_state=False)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        for number in range(40):
            feed = client.post("/api/feeds/home", json={"user": handle_of(number), "size": 6}).json()
            event = {"event": "apply", "user": handle_of(number), "item": feed["ids"][number % 6]}
            assert client.post("/api/feedback", json={**event, "request": feed["request_id"]}).status_code == 202
    assert board.database_url is not None
    monkeypatch.setenv("DATA_DIR", str(board.data_dir))
    monkeypatch.setenv("DATABASE_URL", board.database_url.get_secret_value())
    monkeypatch.setenv("MAPPING_FILE", str(board.mapping_file))
    warmer = tmp_path / "warmer.toml"
    warmer.write_bytes(shipped(board).replace(b'"temperature" = 0.02', b'"temperature" = 0.05'))
    assert warmer.read_bytes() != shipped(board)

    def recs(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    recs("events", "flush")
    recs("policy", "publish")
    found = json.loads(recs("evaluate", "off-policy", "--policy", str(warmer), "--until", LATER, "--json"))
    assert found["feeds"] == 40, found
    assert found["unread_rows"] == 0
    assert found["logged"] > 0.9, "each feed had an application"
    exported = tmp_path / "ours.dsjson"
    recs("evaluate", "export", "--until", LATER, "--output", str(exported))
    costs = [one["_label_cost"] for line in exported.read_text().splitlines() for one in json.loads(line)["_outcomes"]]
    assert sum(cost < 0 for cost in costs) == 40
