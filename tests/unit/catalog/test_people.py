"""The compressed rows of users agree with what was put in, for any interactions and connections."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.catalog.people import places
from recommendation_service.catalog.report import BuildReport
from recommendation_service.catalog.vocabulary import Vocabulary
from recommendation_service.mappings.interacpedia.people import VIEWS, gather_interactions, gather_people
from recommendation_service.sources.reader import Table

NOW = 1_790_000_000.0
VIDEOS, CHALLENGES = np.array([2, 3, 5, 8]), np.array([3, 4])
CREATORS = np.array([1, 4, 6])
CUTS = (5, 3, 3, 3)

rows = st.tuples(
    st.integers(0, 6),  # user
    st.integers(0, 9),  # item
    st.sampled_from([1.0, 2.5, 4.0, 5.0]),
    st.integers(0, 30),  # hours ago
    st.booleans(),  # of a challenge
)
pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)
users = st.lists(st.integers(0, 9), max_size=6, unique=True)


def interaction_table(entries: list[tuple[int, int, float, int, bool]], with_challenges: bool) -> Table:
    def moment(hours: int) -> str:
        return str(np.datetime64(int(NOW) - hours * 3600, "s")).replace("T", " ")

    columns: dict[str, list[object]] = {
        "user_id": [user for user, *_ in entries],
        "item_id": [item for _, item, *_ in entries],
        "weight": [weight for _, _, weight, *_ in entries],
        "happened_at": [moment(hours) for _, _, _, hours, _ in entries],
    }
    if with_challenges:
        columns["is_challenge"] = [int(challenge) for *_, challenge in entries]
    return Table(columns)


def connection_table(connections: list[tuple[int, int]]) -> Table:
    return Table(
        {
            "from_id": [one for one, _ in connections],
            "to_id": [other for _, other in connections],
            "created_at": ["2026-01-01 00:00:00"] * len(connections),
        }
    )


def user_table(ids: list[int]) -> Table:
    lists: list[object] = [f'["s{user}", "S{user} ", "common"]' if user % 2 else None for user in ids]
    nothing: list[object] = [None] * len(ids)
    times: dict[str, list[object]] = {"created_at": ["2026-01-01 00:00:00"] * len(ids), "updated_at": nothing}
    return Table({"id": ids, "skills": lists, "knowledges": nothing, "tools": nothing, "languages": nothing} | times)


@settings(deadline=None)
@given(st.lists(rows, max_size=20), st.lists(rows, max_size=20), st.integers(0, 30), pairs, users, users)
def test_each_user_who_may_be_known_has_its_own_history_network_and_profile(
    ratings: list[tuple[int, int, float, int, bool]],
    views: list[tuple[int, int, float, int, bool]],
    hours_known: int,
    connections: list[tuple[int, int]],
    recent: list[int],
    listed: list[int],
) -> None:
    report, vocabulary = BuildReport(), Vocabulary()
    tables = {VIEWS: interaction_table(views, True), "interactions_ratings": interaction_table(ratings, False)}

    not_personal = np.unique(np.array(listed, np.int64))
    since = NOW - hours_known * 3600
    interactions, for_lists = gather_interactions(tables, not_personal, VIDEOS, CHALLENGES, NOW, since, report)
    people = gather_people(
        user_table(recent),
        connection_table(connections),
        interactions,
        not_personal,
        CREATORS,
        vocabulary,
        CUTS,
        NOW,
        0.0,
        report,
    )

    expected: dict[int, dict[int, tuple[float, int]]] = defaultdict(dict)
    read = 0
    ever: set[tuple[int, int]] = set()
    all_ratings = [(*row[:4], False) for row in ratings]
    for user, number, *_ in all_ratings:
        if user > 0 and user not in listed and number in VIDEOS:
            ever.add((user, int(np.flatnonzero(number == VIDEOS)[0])))
    for user, number, weight, hours, challenge in [*[row for row in all_ratings if row[3] <= hours_known], *views]:
        read += user > 0 and number > 0
        known = CHALLENGES if challenge else VIDEOS
        if user > 0 and number in known:
            item = int(np.flatnonzero(known == number)[0]) + (len(VIDEOS) if challenge else 0)
            strongest, latest = expected[user].get(item, (0.0, 99))
            expected[user][item] = (max(strongest, weight), min(latest, hours))
    network: dict[int, set[int]] = defaultdict(set)
    for one, other in connections:
        if one > 0 and other > 0 and one != other:
            network[one].add(other)
            network[other].add(one)

    assert interactions.read == read
    of_people = {(u, i) for u in expected if u not in listed for i in expected[u]}
    assert sorted(zip(for_lists.user.tolist(), for_lists.item.tolist(), strict=True)) == sorted(ever | of_people)
    assert people.user_id.tolist() == sorted(({user for user in recent if user} | {*expected} | {*network}) - {*listed})
    names = vocabulary.names()
    for row, user in enumerate(people.user_id.tolist()):
        own = slice(*people.history_offsets[row : row + 2])
        latest_first = sorted(expected[user].items(), key=lambda entry: (entry[1][1], entry[0]))
        assert interactions.item[own].tolist() == [item for item, _ in latest_first]
        assert interactions.weight[own].tolist() == [weight for _, (weight, _) in latest_first]
        creators = people.network_creators[slice(*people.network_offsets[row : row + 2])]
        assert CREATORS[creators].tolist() == sorted(network[user] & {*CREATORS.tolist()})
        assert people.connections[row] == len(network[user])
        tokens = people.profile_tokens[slice(*people.profile_offsets[row : row + 2])]
        has_profile = user in recent and user % 2
        assert [names[token] for token in tokens] == (
            [["skill", f"s{user}"], ["skill", "common"]] if has_profile else []
        )


@pytest.mark.parametrize("known", [[], [3], [1, 3, 9]])
def test_places_are_found_and_absent_numbers_have_none(known: list[int]) -> None:
    found = places(np.array(known, np.int64), np.arange(12))

    assert found.tolist() == [known.index(number) if number in known else -1 for number in range(12)]
