"""Under a mapping whose ids are text: the gate serves what it finds to be better, and an experiment says the same.

Slow, since a verdict needs hundreds of feeds, each made by the running service and answered by a reader, and people who
come again. The learner is this test's own and not a process, so that its clock need not wait for feeds to settle.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.bootstrap import create_app
from recommendation_service.core.config import Settings
from recommendation_service.experiments.assignment import Assignment
from recommendation_service.learning.learner import Learner
from recommendation_service.learning.mapped import learning_of
from recommendation_service.model.text_ids import USER_BITS, number_of_text
from recommendation_service.policies.evidence import BETTER, EvidenceFiles
from recommendation_service.policies.store import PolicyStore
from tests.end_to_end.in_process import logs_left_alone, served
from tests.end_to_end.service import ADMIN_TOKEN, PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.servers import wait_until
from tests.support.http_contract import body_of
from tests.support.job_board import handle_of, make_job_board, skill_of

ADS, CANDIDATES = 240, 400
FEEDS_A_ROUND, MOST_ROUNDS = 500, 12
SIZE = 6
ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("gated")
    address, mapping = make_job_board(folder, ads=ADS, candidates=CANDIDATES)
    settings = Settings(
        data_dir=folder / "data",
        database_url=address,
        mapping_file=mapping,
        catalog_refresher=False,
        event_flusher=False,
        seen_state=False,  # people come again, to the same ads
        decision_share=0.2,
        learner="shadow",
        learn_promotion="gated",
        learn_confidence=0.9,
        learn_live_share=0.3,
        learn_trial_feeds=4_000,
        admin_token=ADMIN_TOKEN,
    )
    built_and_published(settings)
    return settings


@pytest.fixture(scope="module")
def client(board: Settings) -> Iterator[httpx.Client]:
    app = create_app(board.model_copy(update={"learner": "off"}))
    with logs_left_alone(), served(app) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS), client.get("/ready").text
        yield client


class Readers:
    """Who apply for what another skill than their own wants: the mapping's own order is the other way round."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._draw = random.Random(11)
        self.came: list[str] = []  # in whose order

    def come(self, count: int) -> list[dict[str, Any]]:
        """Their feeds; what they do with them is acknowledged."""
        answers, events = [], []
        for _ in range(count):
            place = self._draw.randrange(CANDIDATES)
            answer = self._client.post("/api/feeds/home", json={"user": handle_of(place), "size": SIZE})
            assert answer.status_code == 200, answer.text
            feed = answer.json()
            answers.append(feed)
            self.came.append(handle_of(place))
            for ad in feed["ids"]:
                wants = skill_of(int(ad.split("-")[1])) != skill_of(place)
                event = {"user_id": handle_of(place), "item_id": ad, "request_id": feed["request_id"]}
                liked = self._draw.random() < (0.5 if wants else 0.02)
                events.append(event | {"event": "apply" if liked else "impression"})
        for start in range(0, len(events), 100):
            answer = self._client.post("/api/feedback", json=events[start : start + 100])
            assert answer.status_code == 202, answer.text
        return answers


@pytest.fixture(scope="module")
def readers(client: httpx.Client) -> Readers:
    return Readers(client)


@pytest.fixture(scope="module")
def learner(board: Settings, client: httpx.Client) -> Iterator[Learner]:
    assert client, "what it reads is written by the service"
    file = learning_of(board)
    learner = Learner(board, file, lambda: time.time() + 60 * file.settle_minutes + 5)
    yield learner
    learner.close()


@pytest.fixture(scope="module")
def promoted(board: Settings, readers: Readers, learner: Learner) -> tuple[str, str]:
    """The version that served, and the learned one that took its place."""
    store = PolicyStore(board.policy_dir, 5)
    before = ""
    for _ in range(MOST_ROUNDS):
        readers.come(FEEDS_A_ROUND)
        learner.learn_all()
        before = before or store.current() or ""
        if learner.status.gate.get("promoted"):
            return before, store.current() or ""
    pytest.fail(f"nothing was promoted after {MOST_ROUNDS * FEEDS_A_ROUND} feeds: {learner.status.trial}")


def explained(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """Of calls that come too early each is made again."""
    answers: list[httpx.Response] = []

    def once() -> bool:
        answers.append(client.get(f"/api/explain/{request_id}", headers=ADMINISTRATOR))
        return answers[-1].status_code != 429

    assert wait_until(once, PATIENCE_SECONDS)
    return body_of(answers[-1], 200)


def test_the_gate_serves_what_it_found_to_be_better(
    board: Settings, client: httpx.Client, promoted: tuple[str, str], learner: Learner
) -> None:
    before, after = promoted
    assert before != after
    assert learner.status.gate["better"] == learner.status.gate["promoted"] == 1
    [*_, look] = EvidenceFiles(board.policy_dir).of(after)
    assert (look.verdict, look.against) == (BETTER, before)
    assert look.lower is not None
    assert look.lower > 0
    feed: dict[str, Any] = {}

    def is_made_by_it() -> bool:
        feed.update(client.post("/api/feeds/home", json={"user": handle_of(1), "size": SIZE}).json())
        return bool(explained(client, feed["request_id"])["policy"] == after)

    assert wait_until(is_made_by_it, PATIENCE_SECONDS)
    told = explained(client, feed["request_id"])
    assert told["user_id"] == handle_of(1)
    assert [one["id"] for one in told["items"]] == feed["ids"]


def test_an_experiment_has_each_person_in_one_arm_and_tells_which_is_better(
    board: Settings,
    client: httpx.Client,
    readers: Readers,
    learner: Learner,
    promoted: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert board.database_url is not None
    monkeypatch.setenv("DATA_DIR", str(board.data_dir))
    monkeypatch.setenv("DATABASE_URL", board.database_url.get_secret_value())
    monkeypatch.setenv("MAPPING_FILE", str(board.mapping_file))

    def experiment(*arguments: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli.app, ["experiment", *arguments, "--json"], catch_exceptions=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    arms = [f"--arm={name}={version}:0.5" for name, version in zip(("before", "learned"), promoted, strict=True)]
    begun = experiment("start", "learned-or-not", *arms, "--why", "does an experiment say what the gate said?")
    of_user = Assignment(begun["salt"], [0.5, 0.5]).of

    def arm_of(feed: dict[str, Any]) -> tuple[str, str, str]:
        told = explained(client, feed["request_id"])
        return told["user_id"], told["arm"], told["policy"]

    def runs() -> bool:
        """Before that a share of feeds has another arm: that of what the gate weighs."""
        feed = client.post("/api/feeds/home", json={"user": handle_of(0), "size": 1}).json()
        return arm_of(feed)[1].startswith("learned-or-not:")

    assert wait_until(runs, PATIENCE_SECONDS)
    feeds = readers.come(1_200)
    for user, arm, version in map(arm_of, feeds[:10]):
        place = of_user(number_of_text(user, USER_BITS), 0, "")
        assert arm == f"learned-or-not:{('before', 'learned')[place]}"
        assert version == promoted[place]
    learner.learn_all()

    found = experiment("show", "learned-or-not")["evidence"]
    before, learned = found["arms"]
    assert not found["ratio_is_off"]
    expected = Counter(of_user(number_of_text(user, USER_BITS), 0, "") for user in readers.came[-1_200:])
    assert before["feeds"] >= expected[0] > 400
    assert learned["feeds"] >= expected[1] > 400
    assert before["people"] + learned["people"] <= CANDIDATES
    assert learned["beside"]["lower"] > 0, "better, as the gate said"
