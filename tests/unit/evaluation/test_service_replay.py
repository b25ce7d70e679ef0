"""The service in a replay, through its own SQL, catalog and pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import NullPool, create_engine, text

from recommendation_service.core.config import load_settings
from recommendation_service.evaluation.interaction_log import InteractionLog
from recommendation_service.evaluation.measures import measure
from recommendation_service.evaluation.protocol import Past, Plan, prequential
from recommendation_service.evaluation.replay import NOTHING, Answers, replay
from recommendation_service.evaluation.service import ReplayedOperator, ServiceReplay, ranking_alone
from recommendation_service.policies.policy import load_policy
from tests.unit.evaluation.logs import log_of

POLICY = load_policy()
ITEMS = 60
ITEM_FRAME = {"item_id": list(range(ITEMS)), "skills": ["even" if item % 2 == 0 else "odd" for item in range(ITEMS)]}


@pytest.fixture(scope="module")
def log() -> InteractionLog:
    """People take even items alone or odd ones alone; users from 40 on come after the first refit."""
    events = [(1000 + item % 7, item, 0.0) for item in range(ITEMS)]
    events += [
        (user, 2 * ((user * 7 + turn * 11) % (ITEMS // 2)) + user % 2, 1 + user / 25 + turn / 100)
        for user in range(60)
        for turn in range(6)
    ]
    return log_of(events, ITEM_FRAME)


@pytest.fixture(scope="module")
def plan(log: InteractionLog) -> Plan:
    return prequential(log, 0, 0.7)


@pytest.fixture(scope="module")
def alone(log: InteractionLog, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    operator = ReplayedOperator(log, load_settings(), POLICY, tmp_path_factory.mktemp("operator"))
    method = ServiceReplay("service", operator, ranking_alone(POLICY))
    (answers,) = replay(plan, [method])
    with pytest.raises(RuntimeError, match="goes back in time"):  # these tables hold the future now
        replay(plan, [method])
    return answers


@pytest.fixture
def operator(log: InteractionLog, tmp_path: Path) -> ReplayedOperator:
    return ReplayedOperator(log, load_settings(), POLICY, tmp_path)


def test_the_services_own_ranking_gives_people_what_is_like_what_they_had(
    log: InteractionLog, plan: Plan, alone: Answers
) -> None:
    lists = alone.lists
    baskets = [basket for stretch in plan.stretches for basket in stretch.baskets]
    known = [row for row, basket in enumerate(baskets) if len(basket.question.history)]
    assert len(known) > 80
    for row in known:
        parity = baskets[row].question.user % 2
        user_parity = log.skills[int(baskets[row].question.history[0])]
        assert {log.skills[item] for item in lists[row, :10].tolist()} == {user_parity}, parity
    assert (lists[known] != NOTHING).all()


def test_two_policies_share_tables_and_each_gets_what_it_would_by_itself(
    plan: Plan, alone: Answers, operator: ReplayedOperator
) -> None:
    """What was told for a question of the first must not be ahead of the second's. Drawn slots are another feed."""
    policies = {"service_full": POLICY, "service": ranking_alone(POLICY)}
    full, beside = replay(plan, [ServiceReplay(name, operator, policy) for name, policy in policies.items()])
    assert (beside.lists == alone.lists).all()
    assert (full.lists != alone.lists).any(axis=1).all()


def test_the_tables_hold_what_was_told_and_nothing_of_the_future(
    plan: Plan, log: InteractionLog, operator: ReplayedOperator, tmp_path: Path
) -> None:
    """Of others until the refit, of who is asked until the question."""
    engine = create_engine(f"sqlite:///{tmp_path / 'operator.sqlite'}", poolclass=NullPool)

    def rows() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT COUNT(*) FROM activity_log")).scalar_one())

    class Watching(ServiceReplay):
        def fit(self, past: Past) -> None:
            super().fit(past)
            assert rows() == (log.when < past.moment).sum()

    stretch = plan.stretches[0]
    first = next(basket for basket in stretch.baskets if len(basket.question.history) > 2)
    method = Watching("service", operator, ranking_alone(POLICY))
    method.fit(stretch.past)
    before = rows()
    method.rank(first.question)
    known = np.isin(first.question.user, log.user[log.when < stretch.past.moment])
    mine = (log.user == first.question.user) & (log.when >= stretch.past.moment) & (log.when < first.question.when)
    assert rows() == before + (0 if known else mine.sum())
    method.fit(plan.stretches[1].past)


def test_ranking_alone_is_of_the_policys_file_with_what_was_learned() -> None:
    alone = ranking_alone(POLICY)
    assert alone.catalog_digest == POLICY.catalog_digest
    assert (alone.arrays.theta == POLICY.arrays.theta).all()
    assert (alone.file.feeds["total"], alone.file.kind("AU").alpha) == (["AU"], 0.0)


def test_measures_of_the_service_are_those_of_a_method(log: InteractionLog, plan: Plan, alone: Answers) -> None:
    found = measure(plan, log, alone).values
    assert found["diversity"][-1] == 0.0  # one skill alone
    assert 0.2 < found["recall_24"].mean() <= 1.0
