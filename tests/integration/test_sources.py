"""Which rows count: the rules of eligibility on rows on both sides of each edge, on SQLite and MariaDB alike."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.demo.schema import CHALLENGE_MODEL, RESUME_MODEL
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.migrations import migrate
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.mappings.interacpedia.user_reader import UserReader
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.words import EVENT_NAMES
from recommendation_service.policies.policy import SHIPPED, load_policy
from tests.support.events import feed, feedback
from tests.unit.sources.operator_database import (
    NOW,
    VIEW,
    ZERO_DATE,
    OperatorDatabase,
    View,
    ago,
    cases_that_hold,
    operator_database,
)

Cases = dict[str, tuple[dict[str, Any], bool]]

INSIDE_90 = ago(days=90, minutes=-5)
OUTSIDE_90 = ago(days=90, minutes=5)
INSIDE_360 = ago(days=360, minutes=-5)
OUTSIDE_360 = ago(days=360, minutes=5)
INSIDE_30 = ago(days=30, minutes=-5)
OUTSIDE_30 = ago(days=30, minutes=5)
TOMORROW = ago(days=-1)
LONG_AGO = ago(days=1000)


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OperatorDatabase]:
    yield from operator_database(request, tmp_path)


def expected(cases: Cases) -> list[str]:
    return [case for case, (_, holds) in cases.items() if holds]


# Users.


def test_users_created_or_updated_within_90_days_and_not_deleted_are_loaded(
    database: OperatorDatabase,
) -> None:
    cases: Cases = {
        "created inside": ({"created_at": INSIDE_90, "updated_at": LONG_AGO}, True),
        "created outside": ({"created_at": OUTSIDE_90, "updated_at": OUTSIDE_90}, False),
        "updated inside": ({"created_at": LONG_AGO, "updated_at": INSIDE_90}, True),
        "updated inside, creation unknown": ({"created_at": None, "updated_at": INSIDE_90}, True),
        "updated inside, creation zero": ({"created_at": ZERO_DATE, "updated_at": INSIDE_90}, True),
        "created inside, update unknown": ({"created_at": INSIDE_90, "updated_at": None}, True),
        "no time at all": ({"created_at": None, "updated_at": None}, False),
        "only zero dates": ({"created_at": ZERO_DATE, "updated_at": ZERO_DATE}, False),
        "deleted": ({"created_at": INSIDE_90, "deleted_at": ago(days=1)}, False),
        "deleted at the zero date": ({"created_at": INSIDE_90, "deleted_at": ZERO_DATE}, True),
    }
    ids = {case: database.add("users", **values) for case, (values, _) in cases.items()}

    view = database.build()

    assert cases_that_hold(ids, view.users) == expected(cases)
    assert view.built.report.counts["users"] == len(expected(cases))


def test_a_user_is_loaded_with_the_profile_and_without_one(database: OperatorDatabase) -> None:
    with_profile, without = (database.add("users", updated_at=ago(days=1)) for _ in range(2))
    database.add(
        "profiles",
        user_id=with_profile,
        skills='["Canto"]',
        knowledge='["Teoría"]',
        tools='["Piano"]',
        languages='["Español"]',
    )

    view = database.build()

    assert view.profile(with_profile) == ["canto", "teoría", "piano", "español"]
    assert view.profile(without) == []


def test_a_user_of_several_profiles_is_one_user(database: OperatorDatabase) -> None:
    user = database.add("users", updated_at=ago(days=1))
    for skills in ('["Canto"]', '["Baile"]'):
        database.add("profiles", user_id=user, skills=skills)

    view = database.build()

    assert view.users == [user]
    assert view.profile(user) in (["canto"], ["baile"])
    assert view.built.report.counts["users"] == 1


# Résumé videos.


def test_videos_that_are_sent_recent_and_not_deleted_are_eligible(database: OperatorDatabase) -> None:
    gone = database.add("users", deleted_at=ago(days=1))
    almost_gone = database.add("users", deleted_at=ZERO_DATE)
    cases: Cases = {
        "ordinary": ({}, True),
        "deleted": ({"deleted_at": ago(days=1)}, False),
        "deleted at the zero date": ({"deleted_at": ZERO_DATE}, True),
        "creator deleted": ({"user_id": gone}, False),
        "creator deleted at the zero date": ({"user_id": almost_gone}, True),
        "creator without a row": ({"user_id": 4_000_000}, False),
        "draft": ({"status": "draft"}, False),
        "no status": ({"status": None}, False),
        "no video": ({"video": None}, False),
        "empty video": ({"video": ""}, False),
        "blank video": ({"video": "  "}, False),
        "created inside": ({"created_at": INSIDE_360}, True),
        "created outside": ({"created_at": OUTSIDE_360, "updated_at": ago(days=1)}, False),
        "creation unknown": ({"created_at": None}, False),
        "creation zero": ({"created_at": ZERO_DATE}, False),
        "created tomorrow": ({"created_at": TOMORROW}, False),
        "update unknown": ({"updated_at": None}, True),
    }
    ids = {case: database.add("resumes", **values) for case, (values, _) in cases.items()}

    assert cases_that_hold(ids, database.build().videos) == expected(cases)


def test_two_videos_of_one_address_are_two_videos(database: OperatorDatabase) -> None:
    ids = [database.add("resumes", video="same.mp4") for _ in range(2)]

    assert database.build().videos == ids


TEST_WORDS: dict[str, bool] = {  # text: whether it marks a test row
    "prueba": True,
    "Esto es una prueba.": True,
    "TEST": True,
    "¡Test!": True,
    "video-test-1.mp4": True,
    "https://videos/prueba/1.mp4": True,
    "mi testimonio": False,
    "mi mamá aprueba": False,
    "pruebas de sonido": False,
    "contest.mp4": False,
    "testé": False,
    "un día": False,
}


def ordinary_words() -> list[str]:
    return [words for words, marks in TEST_WORDS.items() if not marks]


@pytest.mark.parametrize("column", ["video", "description"])
def test_a_whole_test_word_makes_a_video_a_test_row(database: OperatorDatabase, column: str) -> None:
    ids = {words: database.add("resumes", **{column: words}) for words in TEST_WORDS}

    view = database.build()

    assert cases_that_hold(ids, view.videos) == ordinary_words()
    assert view.set_aside["resumes", "test row"] == sum(TEST_WORDS.values())


@pytest.mark.parametrize("column", ["video", "description", "name"])
def test_a_whole_test_word_makes_a_challenge_a_test_row(database: OperatorDatabase, column: str) -> None:
    ids = {words: database.add("challenges", **{column: words}) for words in TEST_WORDS}

    view = database.build()

    assert cases_that_hold(ids, view.challenges) == [words for words, marks in TEST_WORDS.items() if not marks]
    assert view.set_aside["challenges", "test row"] == sum(TEST_WORDS.values())


def test_the_creators_name_is_no_reason_to_be_a_test_row(database: OperatorDatabase) -> None:
    video = database.add("resumes", user_id=database.add("users", name="Prueba Test"))

    assert database.build().videos == [video]


def test_test_words_are_a_setting(database: OperatorDatabase) -> None:
    ids = {words: database.add("resumes", description=words) for words in ("un BORRADOR", "prueba", "a.b", "axb")}

    def kept(**overrides: Any) -> list[str]:
        return cases_that_hold(ids, database.build(**overrides).videos)

    assert kept() == ["un BORRADOR", "a.b", "axb"]
    assert kept(test_row_words="borrador") == ["prueba", "a.b", "axb"]
    assert kept(test_row_words="a.b") == ["un BORRADOR", "prueba", "axb"]
    assert kept(test_row_words="") == list(ids)


# Challenges.


def test_challenges_that_are_published_recent_and_not_deleted_are_eligible(
    database: OperatorDatabase,
) -> None:
    gone = database.add("users", deleted_at=ago(days=1))
    cases: Cases = {
        "ordinary": ({}, True),
        "deleted": ({"deleted_at": ago(days=1)}, False),
        "deleted at the zero date": ({"deleted_at": ZERO_DATE}, True),
        "creator deleted": ({"user_id": gone}, False),
        "creator without a row": ({"user_id": 4_000_000}, False),
        "sent": ({"status": "send"}, False),
        "no status": ({"status": None}, False),
        "no video": ({"video": None}, False),
        "empty video": ({"video": ""}, False),
        "created inside": ({"created_at": INSIDE_90, "updated_at": LONG_AGO}, True),
        "created outside": ({"created_at": OUTSIDE_90, "updated_at": OUTSIDE_90}, False),
        "updated inside": ({"created_at": LONG_AGO, "updated_at": INSIDE_90}, True),
        "created outside, never updated": ({"created_at": OUTSIDE_90, "updated_at": None}, False),
        "created inside, never updated": ({"created_at": INSIDE_90, "updated_at": None}, True),
        "no time at all": ({"created_at": None, "updated_at": None}, False),
        "creation zero, updated inside": ({"created_at": ZERO_DATE, "updated_at": INSIDE_90}, True),
        "created tomorrow, never updated": ({"created_at": TOMORROW, "updated_at": None}, False),
        "created tomorrow, updated outside": ({"created_at": TOMORROW, "updated_at": OUTSIDE_90}, False),
        "created outside, updated tomorrow": ({"created_at": OUTSIDE_90, "updated_at": TOMORROW}, False),
        "created inside, updated tomorrow": ({"created_at": INSIDE_90, "updated_at": TOMORROW}, True),
        "created tomorrow, updated inside": ({"created_at": TOMORROW, "updated_at": INSIDE_90}, True),
    }
    ids = {case: database.add("challenges", **values) for case, (values, _) in cases.items()}

    assert cases_that_hold(ids, database.build().challenges) == expected(cases)


def test_of_several_challenges_with_one_video_address_the_newest_stays(database: OperatorDatabase) -> None:
    older = database.add("challenges", video="a.mp4", created_at=ago(days=9))
    newest = database.add("challenges", video="a.mp4", created_at=ago(days=2))
    database.add("challenges", video=" a.mp4 ", created_at=ago(days=3))
    database.add("challenges", video="a.mp4", created_at=TOMORROW, updated_at=ago(days=1))
    database.add("challenges", video="a.mp4", created_at=ago(days=1), status="draft")
    database.add("challenges", video="a.mp4", created_at=ago(days=1), name="una prueba")
    other = database.add("challenges", video="A.mp4", created_at=ago(days=9))

    view = database.build()

    assert older not in view.challenges
    assert sorted(view.challenges) == [newest, other]
    assert view.set_aside["challenges.video", "an older one with the same address"] == 3


# The blacklist and the cities.


def test_blacklisted_addresses_are_read_at_each_rebuild(database: OperatorDatabase) -> None:
    video, challenge = database.add("resumes", video="v.mp4"), database.add("challenges", video="c.mp4")
    kept = database.add("resumes", video="V.mp4")
    blacklist = database.folder / "blacklist.txt"

    blacklist.write_text("# never again\nv.mp4\n\n  c.mp4  \n")
    view = database.build()
    assert (view.videos, view.challenges) == ([kept], [])
    assert view.set_aside["resumes.video", "blacklisted"] == 1
    assert view.set_aside["challenges.video", "blacklisted"] == 1

    blacklist.unlink()
    view = database.build()
    assert (view.videos, view.challenges) == ([kept], [])

    blacklist.write_text("")
    os.utime(blacklist, (0, 0))
    view = database.build()
    assert (view.videos, view.challenges) == ([video, kept], [challenge])


def test_a_blacklist_elsewhere_is_a_setting(database: OperatorDatabase, tmp_path: Path) -> None:
    database.add("resumes", video="v.mp4")
    (tmp_path / "other.txt").write_text("v.mp4\n")

    assert database.build(blacklist_file=tmp_path / "other.txt").videos == []


@pytest.mark.parametrize(
    ("city", "country", "meant"),
    [
        ("Bogota", "Colombia", "Bogotá"),
        ("bogota", "Colombia", "Bogotá"),
        (" Bogotá D.C. ", "Colombia", "Bogotá"),
        ("BOGOTÁ", "", "Bogotá"),
        ("Medellin", "Colombia", "Medellín"),
        ("Distrito Federal", "México", "CDMX"),
        ("Ciudad de México", "México", "CDMX"),
        ("Nuevo Leon", "México", "Monterrey"),
        ("Nuevo León", "México", "Monterrey"),
        (" Cali ", "Colombia", "Cali"),
        ("", "Colombia", "Other-Colombia"),
        (None, "Colombia", "Other-Colombia"),
        ("   ", " México ", "Other-México"),
        ("", "", "Unknown"),
        (None, None, "Unknown"),
    ],
)
def test_a_creators_city_has_one_name(
    sqlite_url: Any, tmp_path: Path, city: str | None, country: str | None, meant: str
) -> None:
    database = OperatorDatabase(sqlite_url, tmp_path)
    video = database.add("resumes", user_id=database.add("users", city=city, country=country))

    assert database.build().city(video) == meant


def test_creators_of_one_city_share_its_number_on_every_server(database: OperatorDatabase) -> None:
    cities = ["Bogota", " bogotá d.c. ", "Bogotá", "Cali", None]
    for city in cities:
        database.add("resumes", user_id=database.add("users", city=city, country=None))

    view = database.build()

    assert [view.city(video) for video in view.videos] == ["Bogotá"] * 3 + ["Cali", "Unknown"]
    assert list(view.arrays.city) == [1, 1, 1, 2, 0]


# Interactions.


def test_ratings_count_with_their_value_up_to_five(database: OperatorDatabase) -> None:
    user, creator = 70, database.add("users")
    cases: dict[str, tuple[dict[str, Any], Any]] = {
        "four": ({"value": 4}, 4),
        "two and a half": ({"value": 2.5}, 2.5),
        "nine counts as five": ({"value": 9}, 5),
        "just above zero": ({"value": 0.01}, pytest.approx(0.01)),
        "zero": ({"value": 0}, None),
        "negative": ({"value": -1}, None),
        "no value": ({"value": None}, None),
        "another type": ({"type": "ranking_challenge"}, None),
        "no type": ({"type": None}, None),
        "inside": ({"created_at": INSIDE_90}, 4),
        "outside": ({"created_at": OUTSIDE_90}, None),
        "tomorrow": ({"created_at": TOMORROW}, None),
        "zero date": ({"created_at": ZERO_DATE}, None),
        "no date": ({"created_at": None}, None),
        "nobody": ({"user_id": None}, None),
    }
    videos = {case: database.add("resumes", user_id=creator) for case in cases}
    for case, (values, _) in cases.items():
        database.add("team_feedbacks", **{"user_id": user, "model_id": videos[case], **values})

    weights = {number: weight for _, number, weight in database.build().history(user)}

    assert {case: weights.get(videos[case]) for case in cases} == {case: w for case, (_, w) in cases.items()}


@pytest.mark.parametrize(
    ("table", "weight", "other"),
    [("matches", 4, {"status": "pending"}), ("likes", 3, {"type": "like"})],
)
def test_accepted_matches_and_saves_count_for_90_days(
    database: OperatorDatabase, table: str, weight: float, other: dict[str, Any]
) -> None:
    user, creator = 70, database.add("users")
    cases: Cases = {
        "ordinary": ({}, True),
        "another sort": (other, False),
        "no sort": (dict.fromkeys(other), False),
        "inside": ({"created_at": INSIDE_90}, True),
        "outside": ({"created_at": OUTSIDE_90}, False),
        "tomorrow": ({"created_at": TOMORROW}, False),
        "zero date": ({"created_at": ZERO_DATE}, False),
        "nobody": ({"user_id": None}, False),
        "no such video": ({"model_id": 4_000_000}, False),
    }
    videos = {case: database.add("resumes", user_id=creator) for case in cases}
    for case, (values, _) in cases.items():
        database.add(table, **{"user_id": user, "model_id": videos[case], **values})

    history = database.build().history(user)

    assert cases_that_hold(videos, [number for _, number, _ in history]) == expected(cases)
    assert {entry_weight for _, _, entry_weight in history} == {weight}


def test_logged_views_count_for_30_days_with_causer_and_subject(database: OperatorDatabase) -> None:
    user, creator = 70, database.add("users")
    cases: Cases = {
        "ordinary": ({}, True),
        "the words in another order and case": ({"description": "Viewed a VIDEO"}, True),
        "no video in the words": ({"description": "#challenge #view"}, False),
        "no view in the words": ({"description": "#video #like #AU"}, False),
        "no words": ({"description": None}, False),
        "no causer": ({"causer_id": None}, False),
        "no subject": ({"subject_id": None}, False),
        "no subject type": ({"subject_type": None}, True),
        "inside": ({"created_at": INSIDE_30}, True),
        "outside": ({"created_at": OUTSIDE_30}, False),
        "tomorrow": ({"created_at": TOMORROW}, False),
        "zero date": ({"created_at": ZERO_DATE}, False),
    }
    videos = {case: database.add("resumes", user_id=creator) for case in cases}
    for case, (values, _) in cases.items():
        database.add("activity_log", **{"causer_id": user, "subject_id": videos[case], **values})

    history = database.build().history(user)

    assert cases_that_hold(videos, [number for _, number, _ in history]) == expected(cases)
    assert {weight for _, _, weight in history} == {2.0}


def test_of_what_the_service_itself_logged_only_what_the_user_wanted_counts_as_a_view(
    database: OperatorDatabase,
) -> None:
    """Its rows all say `#video #view #KIND`; what happened is in their properties, as JSON of any spelling."""
    user, creator = database.add("users"), database.add("users")
    wanted = {"impression": False, "skip": False, "hide": False}
    wanted |= dict.fromkeys(("view", "like", "save", "match", "rating"), True)
    cases: Cases = {
        event: ({"properties": json.dumps({"event": event, "item_id": 5}, separators=(",", ":"))}, counts)
        for event, counts in wanted.items()
    }
    cases |= {
        "only the event": ({"properties": '{"event":"impression"}'}, False),
        "an event of another name": ({"properties": '{"event":"impressionable"}'}, True),
        "as a JSON column gives it back": ({"properties": '{"event": "impression", "flags": 4, "item_id": 5}'}, False),
        "in another order": ({"properties": '{"item_id":5,\n\t"event" : "hide"}'}, False),
        "a view as a JSON column gives it back": ({"properties": '{"event": "view", "item_id": 5}'}, True),
        "inside of something": ({"properties": '{"of":{"event":"skip"},"text":"{\\"event\\":\\"skip\\"}"}'}, True),
        "an event that is no text": ({"properties": '{"event":["skip"]}'}, True),
        "a list": ({"properties": '[{"event":"skip"}]'}, True),
        "nested deep": ({"properties": '{"event":"view","of":' + "[" * 200 + "]" * 200 + "}"}, True),
        "half of it": ({"properties": '{"event":"skip"'}, True),
        "text": ({"properties": "skip"}, True),
        "text in JSON": ({"properties": '"skip"'}, True),
        "an empty list": ({"properties": "[]"}, True),
        "empty": ({"properties": ""}, True),
        "null": ({"properties": None}, True),
    }
    videos = {case: database.add("resumes", user_id=creator) for case in cases}
    for case, (values, _) in cases.items():
        database.add("activity_log", causer_id=user, subject_id=videos[case], **values)

    history = database.build().history(user)

    assert cases_that_hold(videos, [number for _, number, _ in history]) == expected(cases)
    facts = UserReader(database.source().engine.connect, database.settings(), NOW.timestamp).read(user)
    assert facts is not None
    assert set(facts.history[:, 0] >> 1) == {videos[case] for case in expected(cases)}


@pytest.mark.parametrize("column_type", ["LONGTEXT", "JSON"])
def test_what_a_flush_appends_is_told_apart_whatever_the_type_of_the_column(
    database: OperatorDatabase, column_type: str
) -> None:
    user, videos = database.add("users"), [database.add("resumes") for _ in EVENT_NAMES]
    if not database.is_sqlite:
        database.execute(f"ALTER TABLE activity_log MODIFY properties {column_type}")
    happened = {"happened_ms": int(NOW.timestamp() * 1000) - 60_000, "received_ms": int(NOW.timestamp() * 1000)}
    records = [
        feedback(event=name, user_id=user, item_id=video, session_id=session, **happened)
        for name, video in zip(EVENT_NAMES, videos, strict=True)
        for session in ("tab-1", 'tab "🦊"')
    ]
    engine = make_writing_engine(database.settings())
    migrate(engine)
    outcome = EventWriter(engine).write([*records, feed(user_id=user)])
    engine.dispose()

    history = database.build().history(user)

    assert (outcome.left, outcome.refused) == ([], [])
    wanted = {"view", "like", "save", "match", "rating"}
    assert {number for _, number, _ in history} == {
        video for name, video in zip(EVENT_NAMES, videos, strict=True) if name in wanted
    }


def test_a_view_of_a_challenge_is_not_one_of_the_video_of_its_number(database: OperatorDatabase) -> None:
    number = 5000
    database.add("resumes", id=number)
    database.add("challenges", id=number)
    database.add("resumes", id=number + 1)
    for user, subject, subject_type in [
        (70, number, CHALLENGE_MODEL),
        (71, number, RESUME_MODEL),
        (72, number + 1, CHALLENGE_MODEL),
    ]:
        database.add("activity_log", causer_id=user, subject_id=subject, subject_type=subject_type)

    view = database.build()

    assert view.history(70) == [("challenge", number, 2.0)]
    assert view.history(71) == [("resume", number, 2.0)]
    assert view.history(72) == []


def test_a_history_has_each_item_once_with_its_strongest_weight_and_the_latest_first(
    database: OperatorDatabase,
) -> None:
    first, second, third = (database.add("resumes") for _ in range(3))
    database.add("matches", user_id=70, model_id=first, created_at=ago(days=20))
    database.add("activity_log", causer_id=70, subject_id=first, created_at=ago(days=1))
    database.add("likes", user_id=70, model_id=second, created_at=ago(days=10))
    database.add("team_feedbacks", user_id=70, model_id=third, value=1, created_at=ago(days=5))
    database.add("likes", user_id=71, model_id=third)

    view = database.build()

    assert view.history(70) == [("resume", first, 4.0), ("resume", third, 1.0), ("resume", second, 3.0)]
    assert view.history(71) == [("resume", third, 3.0)]
    assert view.built.report.counts["interactions"] == 5


# Connections.


def test_accepted_connections_hold_in_both_directions_for_90_days(database: OperatorDatabase) -> None:
    creator = database.add("users")
    database.add("resumes", user_id=creator)
    cases: Cases = {
        "ordinary": ({}, True),
        "pending": ({"status": "pending"}, False),
        "no status": ({"status": None}, False),
        "inside": ({"created_at": INSIDE_90}, True),
        "outside": ({"created_at": OUTSIDE_90}, False),
        "zero date": ({"created_at": ZERO_DATE}, False),
        "no date": ({"created_at": None}, False),
    }
    askers = {case: number for number, case in enumerate(cases, start=8001)}
    asked = {case: number for number, case in enumerate(cases, start=9001)}
    for case, (values, _) in cases.items():
        database.add("user_connections", from_id=askers[case], to_id=creator, **values)
        database.add("user_connections", from_id=creator, to_id=asked[case], **values)

    view = database.build()

    for people in (askers, asked):
        assert [case for case in cases if view.network(people[case]) == [creator]] == expected(cases)
        assert [case for case in cases if view.connections(people[case]) == 1] == expected(cases)
    assert view.connections(creator) == 2 * len(expected(cases))


def test_a_connection_of_the_future_counts_as_absent(database: OperatorDatabase) -> None:
    creator = database.add("users")
    database.add("resumes", user_id=creator)
    database.add("user_connections", from_id=8001, to_id=creator, created_at=TOMORROW)

    assert database.build().network(8001) == []


def test_a_connection_made_twice_or_with_oneself_counts_once_or_never(database: OperatorDatabase) -> None:
    creator = database.add("users")
    database.add("resumes", user_id=creator)
    for pair in [(8001, creator), (creator, 8001), (8001, creator), (8002, 8002)]:
        database.add("user_connections", from_id=pair[0], to_id=pair[1])

    view = database.build()

    assert (view.connections(8001), view.connections(creator), view.connections(8002)) == (1, 1, 0)
    assert view.network(8001) == [creator]


# Engagement.


def test_engagement_totals_count_all_time_and_only_what_is_meant(database: OperatorDatabase) -> None:
    creator = database.add("users")
    video = database.add("resumes", user_id=creator, views=999)
    rival = database.add("resumes", user_id=creator, views=999)
    for created in (LONG_AGO, ago(days=1), ZERO_DATE, None):
        database.add("views", model_id=video, created_at=created)
        database.add("likes", user_id=None, model_id=video, created_at=created)
        database.add("resumes_exhibited", resume_id=video, created_at=created)
        database.add("matches", user_id=None, model_id=video, created_at=created)
        database.add("team_feedbacks", user_id=None, model_id=video, value=1, created_at=created)
    database.add("team_feedbacks", user_id=1, model_id=video, value=30)
    for model_type in (CHALLENGE_MODEL, "Resume", None):
        database.add("views", model_id=video, model_type=model_type)
    database.add("likes", model_id=video, type="like")
    database.add("matches", model_id=video, status="pending")
    for value in (0, -5, None):
        database.add("team_feedbacks", model_id=video, value=value)
    database.add("team_feedbacks", model_id=video, type="other")

    view = database.build()

    average = (4 * 1 + 5) / 5
    assert view.feature(video, 9) == pytest.approx(np.log1p(4) / 10)
    assert view.feature(video, 10) == pytest.approx(average / 5)
    assert view.feature(video, 14) == pytest.approx(5 / 6)
    assert view.feature(video, 15) == pytest.approx(4 / 5)
    assert view.feature(video, 16) == pytest.approx(4 / 5)
    assert view.feature(video, 2) == pytest.approx(0.7 * average * 5 / 15 + 0.3 * np.log1p(4))
    assert [view.feature(rival, number) for number in (2, 9, 10, 14, 15, 16)] == [0.0] * 6


def test_engagement_of_videos_that_are_not_there_is_left_out(database: OperatorDatabase) -> None:
    video = database.add("resumes")
    for _ in range(3):
        database.add("views", model_id=video + 1)
        database.add("team_feedbacks", user_id=1, model_id=video + 1)

    view = database.build()

    assert view.feature(video, 9) == 0.0
    assert view.feature(video, 14) == 0.0


def test_a_rating_that_counts_for_nobody_any_more_still_says_what_people_take_together(
    database: OperatorDatabase, tmp_path: Path
) -> None:
    creator = database.add("users")
    first, second = (database.add("resumes", user_id=creator) for _ in range(2))
    for user in range(200, 210):
        for days, video in ((101, first), (100, second)):
            database.add("likes", type="save", user_id=user, model_id=video, created_at=ago(days=days))
    few = tmp_path / "few.toml"
    few.write_text(SHIPPED.read_text().replace("least_interactions = 2000", "least_interactions = 20"))
    policy = load_policy(few)

    def after_first(**overrides: Any) -> tuple[list[int], list[object]]:
        view = View(build_catalog(database.source(**overrides), database.settings(**overrides), policy, NOW))
        arrays, item = view.arrays, view.videos.index(first)
        listed = arrays.neighbour_items[slice(*arrays.neighbour_offsets[item : item + 2])]
        return arrays.item_id[listed].tolist(), view.history(200)

    assert after_first() == ([second], [])
    assert after_first(collaborative_window_days=99) == ([], [])


# Windows are settings.


def test_windows_are_settings(database: OperatorDatabase) -> None:
    creator = database.add("users")
    user = database.add("users", created_at=ago(days=7), updated_at=ago(days=7))
    video = database.add("resumes", user_id=creator, created_at=ago(days=7))
    challenge = database.add("challenges", user_id=creator, created_at=ago(days=7), updated_at=ago(days=7))
    others = {table: database.add("resumes", user_id=creator) for table in ("likes", "views")}
    database.add("likes", user_id=71, model_id=others["likes"], created_at=ago(days=7))
    database.add(
        "activity_log",
        causer_id=72,
        subject_id=others["views"],
        description=VIEW,
        created_at=ago(days=7),
    )
    database.add("user_connections", from_id=73, to_id=creator, created_at=ago(days=7))

    def seen(**overrides: Any) -> dict[str, bool]:
        view = database.build(**overrides)
        return {
            "users_window_days": user in view.users,
            "videos_window_days": video in view.videos,
            "challenges_window_days": challenge in view.challenges,
            "interactions_window_days": bool(view.history(71)),
            "views_window_days": bool(view.history(72)),
            "connections_window_days": bool(view.network(73)),
        }

    everything = seen()
    assert all(everything.values())
    for window in everything:
        assert seen(**{window: 8}) == everything
        assert seen(**{window: 6}) == everything | {window: False}


# One item, for whoever misses it.


@pytest.mark.parametrize(
    ("table", "query", "item_type"), [("resumes", "videos", RESUME), ("challenges", "challenges", CHALLENGE)]
)
def test_the_rules_that_keep_a_row_out_are_those_by_which_builds_read_it(
    database: OperatorDatabase, table: str, query: str, item_type: int
) -> None:
    gone = database.add("users", deleted_at=TOMORROW)
    old = {"created_at": OUTSIDE_360, "updated_at": OUTSIDE_360}
    cases: dict[str, tuple[dict[str, Any], list[str]]] = {
        "may be shown": ({}, []),
        "deleted at a zero date": ({"deleted_at": ZERO_DATE}, []),
        "created at a zero date": ({"created_at": ZERO_DATE, "updated_at": ZERO_DATE}, []),
        "deleted": ({"deleted_at": INSIDE_90}, ["deleted"]),
        "of a deleted creator": ({"user_id": gone}, ["creator_deleted"]),
        "of nobody": ({"user_id": 987_654}, []),
        "a draft": ({"status": "draft"}, ["unpublished"]),
        "of no status": ({"status": None}, ["unpublished"]),
        "without a video": ({"video": None}, ["no_video"]),
        "of no time": ({"created_at": None, "updated_at": None}, ["no_time"]),
        "old": (old, ["too_old"]),
        "old and deleted": (old | {"deleted_at": INSIDE_90}, ["deleted", "too_old"]),
    }
    ids = {case: database.add(table, **values) for case, (values, _) in cases.items()}
    source = database.source(videos_window_days=300, challenges_window_days=300)

    found = {case: source.item_row(NOW, item_type, number) for case, number in ids.items()}

    assert {case: row.broken if row else None for case, row in found.items()} == {
        case: broken for case, (_, broken) in cases.items()
    }
    with source.snapshot(NOW) as snapshot:
        read = set(snapshot.read(query)["id"])
    assert {case for case, row in found.items() if row and not row.broken} == {
        case for case, number in ids.items() if number in read
    }
    draft = found["a draft"]
    assert draft is not None
    assert draft.status == "draft"
    assert source.item_row(NOW, item_type, 2**62 - 1) is None
    if table == "resumes":
        assert source.item_row(NOW, CHALLENGE, ids["may be shown"]) is None
