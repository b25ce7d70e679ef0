"""What feedback does to the next feeds."""

from __future__ import annotations

import pytest

from recommendation_service.catalog.store import Catalog
from recommendation_service.model.words import EVENT_NAMES
from tests.support.feedback import USERS, Running, event


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_what_people_do_keeps_the_item_away_from_the_very_next_feed(
    service: Running, user: int, videos: list[str], name: str
) -> None:
    service.accept(event(user, videos[3], name, value=2))
    page = service.feed(SELF_ID=user, N_VIDEOS=len(videos) - 1)
    assert set(page["resume_ids"]) == set(videos) - {videos[3]}
    assert "seen" not in page["relaxed"]
    again = service.feed(SELF_ID=user, N_VIDEOS=len(videos))
    assert "seen" in again["relaxed"]
    assert (videos[3] in again["resume_ids"]) is (name != "hide"), "a hidden one never comes back"


def test_what_is_hidden_stays_hidden_whatever_is_done_with_it_later(
    service: Running, user: int, videos: list[str]
) -> None:
    service.accept(event(user, videos[0], "hide"))
    service.accept(event(user, videos[0], "view"), event(user, videos[0], "impression"))
    assert videos[0] not in service.shown(SELF_ID=user, N_VIDEOS=len(videos))


def test_nothing_of_a_hidden_creator_comes_back(service: Running, catalog: Catalog, user: int) -> None:
    whole = service.feed("total", SELF_ID=user, N_VIDEOS=100)["items"]
    creators = [item["user_id"] for item in whole]
    creator = max(set(creators), key=creators.count)
    service.accept(event(user, creator, "hide", "creator"))
    after = service.feed("total", SELF_ID=user, N_VIDEOS=100)["items"]
    assert len(whole) == len(catalog.arrays.item_id)
    assert {item["id"] for item in after if item["user_id"] == creator} == set()
    assert len(after) == len(whole) - creators.count(creator)


def test_a_resume_and_a_challenge_of_one_number_are_two_items(service: Running, catalog: Catalog, user: int) -> None:
    arrays = catalog.arrays
    challenge = str(arrays.item_id[-1])
    service.accept(event(user, challenge, "hide", "resume"))
    assert challenge in service.shown("flow", SELF_ID=user, N_VIDEOS=100)
    service.accept(event(user, challenge, "hide", "challenge"))
    assert challenge not in service.shown("flow", SELF_ID=user, N_VIDEOS=100)


def test_what_one_user_does_is_nothing_to_another(service: Running, user: int, videos: list[str]) -> None:
    service.accept(*(event(user, number, "hide") for number in videos[:20]))
    assert len(service.shown(SELF_ID=user, N_VIDEOS=100)) == len(videos) - 20
    assert len(service.shown(SELF_ID=next(USERS), N_VIDEOS=100)) == len(videos)


def test_an_anonymous_person_is_remembered_by_session_and_not_without(service: Running, videos: list[str]) -> None:
    service.accept(event(0, videos[0], "hide", session_id="somebody's"), event(0, videos[1], "hide"))
    assert videos[0] not in service.shown(session_id="somebody's", N_VIDEOS=100)
    assert videos[1] in service.shown(session_id="somebody's", N_VIDEOS=100)
    assert set(service.shown(N_VIDEOS=100)) == set(videos)
