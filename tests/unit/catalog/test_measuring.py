"""What a build measures of the data: how quickly what people take fades, and how much each signal tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recommendation_service.catalog.collaborative import no_lists
from recommendation_service.catalog.measuring import (
    DAY_SECONDS,
    DEPTH,
    WITH_PAST,
    Held,
    Popularity,
    Traits,
    _gains_of_order,
    _worth,
    creators_taken,
    hold_back,
    liked,
    logarithmic,
    measure,
)
from recommendation_service.catalog.people import UNTIMED, Interactions, People, each_once
from recommendation_service.model.columns import TOKEN_PLACES
from recommendation_service.policies.format import Measuring
from recommendation_service.policies.mapped import MEASURING

NOW = 1_750_000_000.0
SETTINGS = Measuring.model_validate(MEASURING | {"creators_each": 12.0})
ITEMS = 200


def interactions(rows: list[tuple[int, int, float]]) -> Interactions:
    """Of (user, item, days ago)."""
    user, item, ago = (np.array(column) for column in zip(*rows, strict=True))
    return each_once(user, item, np.ones(len(rows)), NOW - ago * DAY_SECONDS, len(rows))


def who_say(topics: dict[int, int]) -> People:
    """People, some of whom say what they are about: one topic each."""
    user_id, nobody = np.arange(1, 2001), np.zeros(2001, np.int64)
    says = np.isin(user_id, list(topics))
    return People(
        user_id=user_id,
        history_offsets=nobody,
        network_offsets=nobody,
        network_creators=np.zeros(0, np.int32),
        connections=np.zeros(2000, np.int32),
        profile_offsets=np.concatenate([[0], np.cumsum(says)]),
        profile_tokens=np.array([topics[user] for user in user_id[says].tolist()], np.int32),
        recent=0,
        connected=0,
    )


def traits(created_days_ago: Any = None, topics: Any = None) -> Traits:
    """Each item has one skill, its topic."""
    tokens = np.full((ITEMS, TOKEN_PLACES), 4, np.int32)
    tokens[:, 0] = np.arange(ITEMS) % 4 if topics is None else topics
    return Traits(
        settings=SETTINGS,
        created=np.zeros(ITEMS) if created_days_ago is None else NOW - np.array(created_days_ago) * DAY_SECONDS,
        creator=np.arange(ITEMS),
        tokens=tokens,
        token_kind=np.array([0, 0, 0, 0, 255], np.uint8),
        similarity=2.0,
        match=1.0,
        match_weight=np.array([0.15, 0.12, 0.1, 0.08]),
        match_cap=1.0,
        similarity_of=np.array([0.6, 0.4]),
        together=30.0,
        latest_weight=np.exp(-np.arange(20) / 8.0),
        people=who_say({}),
    )


def measured(done: Interactions, of: Traits | None = None) -> Any:
    return measure(done, of or traits(), lambda _done, _moment: no_lists(ITEMS))


def drawn(rng: np.random.Generator, chances: Any, people: int, each: int = 6) -> list[tuple[int, int, float]]:
    """``chances``: of the days ago, (ITEMS,) weights."""
    rows = []
    for user in range(1, people + 1):
        for ago in rng.uniform(0, 60, each):
            weights = chances(ago)
            rows.append((user, int(rng.choice(ITEMS, p=weights / weights.sum())), float(ago)))
    return rows


def test_what_fades_in_days_has_a_shorter_half_life_than_what_stays() -> None:
    rng, steady = np.random.default_rng(3), 1.0 / (1.0 + np.arange(ITEMS)) ** 0.8
    born = rng.uniform(0, 70, ITEMS)
    fading = interactions(drawn(rng, lambda ago: 1e-6 + (born > ago) * np.exp(-(born - ago) / 1.5), 600))
    staying = interactions(drawn(rng, lambda _: steady, 600))

    quick, slow = measured(fading, traits(born)), measured(staying)

    assert quick.half_life_days < 7.0 <= slow.half_life_days
    assert quick.people > SETTINGS.least_people


def test_where_some_items_are_read_for_ever_what_was_ever_taken_counts_beside_what_is_taken_lately() -> None:
    rng = np.random.default_rng(6)
    born, ever = rng.uniform(0, 200, ITEMS), np.append(1.0 / (1.0 + np.arange(20)), np.zeros(ITEMS - 20))
    born[:20] = 200

    def both(ago: float) -> Any:
        fresh = (born > ago) * np.exp(-(born - ago) / 3.0)
        return 0.6 * fresh / max(fresh.sum(), 1e-9) + 0.4 * ever / ever.sum()

    found = measured(interactions(drawn(rng, both, 700)), traits(born))
    lately, ever_too = (
        liked(interactions([(1, 0, 70.0), (2, 1, 0.0)]), np.zeros(2), NOW, Popularity(7.0, False, share))
        for share in (0.0, 0.6)
    )

    assert found.evergreen in SETTINGS.evergreen
    assert found.half_life_days < 7.0
    assert lately[0] / lately[1] < 0.01
    assert 0.3 < ever_too[0] / ever_too[1] < 0.5


def test_a_short_half_life_is_taken_only_where_it_is_better_than_plain_popularity_by_more_than_chance() -> None:
    """What people like does not change here, and of dozens of forms one is the best by chance alone."""
    steady = 1.0 / (1.0 + np.arange(ITEMS)) ** 0.3
    for seed in range(4):
        found = measured(interactions(drawn(np.random.default_rng(seed), lambda _: steady, 150)))
        assert found.half_life_days >= 14.0


def test_a_copy_of_tables_that_nobody_writes_any_more_ranks_as_on_its_last_day() -> None:
    done = interactions([(1, 0, 9.0), (2, 0, 8.0), (3, 1, 0.0)])
    form = Popularity(0.5, True, 0.0)

    now, years_later = (liked(done, np.zeros(2), NOW + days * DAY_SECONDS, form) for days in (0, 3650))

    assert now.tolist() == years_later.tolist()
    assert 0 < now[0] < now[1]


def test_what_has_no_time_counts_and_is_never_what_was_taken_after_a_moment() -> None:
    timed = interactions([(user, 0, float(user)) for user in range(1, 10)])
    untimed = each_once(
        np.append(timed.user, np.arange(11, 90)),
        np.append(timed.item, np.ones(79, np.int64)),
        np.ones(88),
        np.append(timed.when, np.full(79, UNTIMED)).astype(float),
        88,
    )

    held = hold_back(untimed, np.zeros(ITEMS), 0.5, 100)

    assert held.people == hold_back(timed, np.zeros(ITEMS), 0.5, 100).people > 0
    assert set(held.taken_item.tolist()) == {0}
    assert liked(untimed, np.zeros(ITEMS), NOW, Popularity(36500.0, False, 0.0))[1] > 30


def test_closeness_counts_more_where_people_keep_to_a_topic_than_where_they_do_not() -> None:
    rng, popular = np.random.default_rng(4), 1.0 / (1.0 + np.arange(ITEMS)) ** 0.5
    keeping, roaming = [], []
    for user in range(1, 401):
        for ago in rng.uniform(0, 60, 6).tolist():
            own = popular * (np.arange(ITEMS) % 4 == user % 4)
            keeping.append((user, int(rng.choice(ITEMS, p=own / own.sum())), ago))
            roaming.append((user, int(rng.choice(ITEMS, p=popular / popular.sum())), ago))

    assert measured(interactions(keeping)).closeness >= 1.0 > measured(interactions(roaming)).closeness


def test_what_newcomers_say_of_themselves_counts_where_it_tells_what_they_take() -> None:
    rng, popular = np.random.default_rng(8), 1.0 / (1.0 + np.arange(ITEMS)) ** 0.5
    rows, topic_of = [], {}
    for user in range(1, 901):
        topic_of[user] = user % 4
        own = popular * np.where(np.arange(ITEMS) % 4 == user % 4, 20.0, 1.0)
        rows.append((user, int(rng.choice(ITEMS, p=own / own.sum())), float(rng.uniform(0, 60))))
    strangers = {user: int(rng.integers(4)) for user in topic_of}

    telling = measured(interactions(rows), traits()._replace(people=who_say(topic_of)))
    not_telling = measured(interactions(rows), traits()._replace(people=who_say(strangers)))
    silent = measured(interactions(rows), traits())

    assert telling.profile * telling.closeness >= 1.0
    assert telling.newcomers > 200
    assert not_telling.profile == 0.0
    assert (silent.profile * silent.closeness, silent.newcomers) == (SETTINGS.untold_profile, 0)


def test_where_newcomers_are_too_few_all_people_tell_what_is_worth_what_they_say() -> None:
    rng, popular = np.random.default_rng(8), 1.0 / (1.0 + np.arange(ITEMS)) ** 0.5
    rows, topic_of = [], {}
    for user in range(1, 301):
        topic_of[user] = user % 4
        own = popular * np.where(np.arange(ITEMS) % 4 == user % 4, 20.0, 1.0)
        # All were there before the part that is foretold.
        days_ago = [*rng.uniform(40, 60, 3).tolist(), float(rng.uniform(0, 15))]
        rows += [(user, int(rng.choice(ITEMS, p=own / own.sum())), ago) for ago in days_ago]
    strangers = {user: int(rng.integers(4)) for user in topic_of}

    telling = measured(interactions(rows), traits()._replace(people=who_say(topic_of)))
    not_telling = measured(interactions(rows), traits()._replace(people=who_say(strangers)))

    assert telling.newcomers == not_telling.newcomers == 0
    assert telling.profile * telling.closeness >= 1.0
    assert not_telling.profile == 0.0


def test_of_a_few_people_nothing_is_measured() -> None:
    found = measured(interactions([(user, user % 7, float(user)) for user in range(1, 30)]))

    assert (found.half_life_days, found.by_exposure) == (SETTINGS.untold_half_life_days, False)
    assert (found.together, found.closeness) == SETTINGS.untold_weights
    assert found.people_with_past == 0


def test_of_nothing_nothing_is_measured() -> None:
    nothing = np.zeros(0, np.int64)

    found = measured(Interactions(nothing, nothing.astype(np.int32), nothing.astype(np.float32), nothing, 0))

    assert (found.people, found.creators, found.creator_window) == (0, 1.0, 1)


def test_an_item_that_was_there_for_a_part_of_the_window_is_liked_for_that_part() -> None:
    done = interactions([(1, 0, 0.0), (2, 0, 0.0), (3, 1, 0.0), (4, 1, 0.0)])
    created = NOW - np.array([100.0, 1.0]) * DAY_SECONDS

    old, new = liked(done, created, NOW, Popularity(7.0, True, 0.0))

    assert liked(done, created, NOW, Popularity(7.0, False, 0.0)).tolist() == [2.0, 2.0]
    assert old == pytest.approx(2.0, rel=1e-3)
    assert new == pytest.approx(2.0 / (0.3 + 0.7 * (1 - 0.5 ** (1 / 7))))


def test_popularity_is_in_logarithms_so_that_twice_as_many_is_the_same_step_everywhere() -> None:
    found = logarithmic(np.array([0.0, 50.0, 100.0, 500.0, 1000.0]))

    assert found[0] == 0.0
    assert found[4] == pytest.approx(DEPTH, abs=1e-3)
    assert found[4] - found[3] == pytest.approx(np.log(2.0), abs=1e-2)
    assert found[2] - found[1] == pytest.approx(np.log(2.0), abs=1e-2)
    assert not logarithmic(np.zeros(3)).any()


def test_what_is_held_back_is_what_people_took_anew_of_what_was_there() -> None:
    done = interactions([(1, 0, 9.0), (1, 1, 1.0), (2, 0, 8.0), (3, 1, 0.5), (3, 2, 0.4), (4, 0, 7.0)])
    created = NOW - np.array([50.0, 50.0, 0.45] + [0.0] * 3) * DAY_SECONDS

    held = hold_back(done, created, 0.5, 10)
    with_past = hold_back(done, created, 0.5, 10, WITH_PAST)

    assert (held.people, held.taken_person.tolist(), held.taken_item.tolist()) == (2, [0, 1], [1, 1])
    assert held.had_item.tolist() == [0]
    assert (with_past.people, with_past.taken_item.tolist()) == (1, [1])


def test_the_gain_of_an_order_is_that_of_each_persons_list() -> None:
    rng = np.random.default_rng(5)
    rows = [(user, int(item), float(rng.uniform(0, 9))) for user in range(1, 60) for item in rng.integers(0, 90, 8)]
    held, score = hold_back(interactions(rows), np.zeros(ITEMS), 0.6, 100), rng.random(ITEMS)

    assert _gains_of_order(score, held).tolist() == pytest.approx(slow_gains(score, held))


def slow_gains(score: Any, held: Held) -> list[float]:
    order, found = np.argsort(-score, kind="stable").tolist(), []
    for person in range(held.people):
        had = set(held.had_item[held.had_person == person].tolist())
        taken = set(held.taken_item[held.taken_person == person].tolist())
        shown = [item for item in order if item not in had][:24]
        gains = [1 / np.log2(place + 2) for place in range(10)]
        best = sum(gains[: len(taken)])
        ndcg = sum(gain for gain, item in zip(gains, shown, strict=False) if item in taken) / best
        found.append(bool(taken & set(shown)) + 2 * ndcg)
    return found


def test_what_is_lost_against_the_better_plain_popularity_counts_five_times_what_is_gained() -> None:
    found = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])

    worth, better = _worth(found, [0, 1])

    assert better == 1
    assert worth.tolist() == pytest.approx([-0.5, 0.0, 0.2 * 0.5, -0.5])


def test_creators_count_by_how_what_is_taken_is_spread_among_them() -> None:
    even = interactions([(user, user % 40, 1.0) for user in range(1, 201)])
    creator = np.arange(ITEMS)

    assert creators_taken(even, creator) == pytest.approx(40.0)
    assert creators_taken(even, np.where(creator < 39, 7, creator)) < 1.2
