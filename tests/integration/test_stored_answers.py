"""The ranking that the operator knows is kept to the last bit: with the policy of then, feeds are those of then.

The answers were stored at commit 5484959 by tests/support/make_stored_answers.py, with its policy, starting-1: every
endpoint, for users with much and little history, with a network, unknown ones, anonymous ones and some whom only the
tables know, with exclusions and with what had been seen; in a catalog that is searched exactly, and in one that is
pruned.
"""

from __future__ import annotations

import json
import lzma
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import load_settings
from recommendation_service.demo import load_invented
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest, Outsider
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.policies.policy import Policy, parse_policy
from recommendation_service.ranking.working_memory import SLOTS

STORED: dict[str, Any] = json.loads(
    lzma.decompress((Path(__file__).parent.parent / "support" / "answers_5484959.json.xz").read_bytes())
)
NOW = datetime.fromisoformat(STORED["now"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> URL:
    url = URL.create("sqlite", database=str(tmp_path_factory.mktemp("demo") / "demo.sqlite"))
    load_invented(create_engine(url, poolclass=NullPool), scale=STORED["scale"], now=NOW)
    return url


@pytest.mark.parametrize("how", ["exact", "pruned"])
def test_items_their_order_and_propensities_are_those_of_commit_5484959(how: str, demo: URL, tmp_path: Path) -> None:
    pipeline = pipeline_of(policy_of_then(how), demo, tmp_path)
    slates: dict[str, Slate] = {}

    for stored in STORED[how]:
        before = slates[STORED["exact"][stored["after"]]["request"]].remembered if "after" in stored else b""
        slate = slates[stored["request"]] = pipeline.rank(request_of(stored, pipeline), before)

        assert slate.keys.tolist() == stored["keys"], stored["request"]
        propensities = pipeline.memory.slot_propensity[: pipeline.memory.counts[SLOTS]]
        np.testing.assert_allclose(propensities, stored["propensities"], rtol=0, atol=1e-9, err_msg=stored["request"])
        assert slate.relaxed == stored["relaxed"], stored["request"]


def test_the_stored_answers_are_of_every_kind_of_request() -> None:
    answers = STORED["exact"]

    assert len(answers) >= 60
    assert {answer["endpoint"] for answer in answers} == {"total", "discover", "flow"}
    assert any(answer["excluded"] for answer in answers)
    assert any("outsider" in answer for answer in answers)
    assert any("after" in answer for answer in answers)
    assert any(answer["user"] == 0 for answer in answers)
    assert len({tuple(answer["keys"]) for answer in answers}) > len(answers) / 2


def policy_of_then(how: str) -> Policy:
    text: str = STORED["policy"]
    if how == "pruned":
        text = text.replace("exact_up_to_videos = 8000", f"exact_up_to_videos = {STORED['exact_up_to_videos']}")
    return Policy(parse_policy(text.encode(), "the policy of commit 5484959"))


def pipeline_of(policy: Policy, demo: URL, folder: Path) -> FeedPipeline:
    settings = load_settings(data_dir=folder, database_url=demo.render_as_string(hide_password=False))
    built = build_catalog(Source(create_engine(demo, poolclass=NullPool), settings), settings, policy, NOW)
    store = CatalogStore(settings.catalog_dir, keep=1)
    return FeedPipeline(Generation(store.open(store.publish(built)), policy), STORED["seed"])


def request_of(stored: dict[str, Any], pipeline: FeedPipeline) -> FeedRequest:
    return FeedRequest(
        stored["endpoint"],
        stored["user"],
        stored["size"],
        stored["request"],
        np.array(stored["excluded"], np.int64),
        now=int(NOW.timestamp()),
        session=5,
        outsider=outsider_of(stored["outsider"], pipeline) if "outsider" in stored else None,
    )


def outsider_of(said: dict[str, Any], pipeline: FeedPipeline) -> Outsider:
    history, network = np.array(said["history"], np.int64), np.array(said["network"], np.int64)
    return pipeline.outsider(history, network, said["connections"], said["attributes"])
