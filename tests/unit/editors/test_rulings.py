"""What editors rule: which rulings can be beside each other, and which win."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from recommendation_service.core.errors import Conflict, NotFound
from recommendation_service.editors import rulings
from recommendation_service.editors.rulings import Action, Entry, Ruling, Rulings, decoded, held_at, ruled

NOW = 1_790_000_000.0


def ruling(action: Action, number: int = 812, **fields: object) -> Ruling:
    given: dict[str, object] = {"who": "ana", "why": "a reason", "when": NOW, **fields}
    return Ruling(action, "resume", number, number << 1, **given)  # type: ignore[arg-type]


def pin(number: int = 812, place: int = 1, feed: str = "total", **fields: object) -> Ruling:
    return ruling("pin", number, **{"feed": feed, "place": place, "until": NOW + 60, **fields})


def after(*all_of_them: Ruling) -> Rulings:
    state = Rulings()
    for one in all_of_them:
        state = ruled(state, one)
    return state


def test_a_takedown_ends_all_else_of_its_item_and_nothing_brings_it_forward_until_it_is_released() -> None:
    state = after(pin(), ruling("bury", feed="flow"), pin(7, 2), ruling("takedown"))

    assert [(one.action, one.id) for one in state.held] == [("pin", 7), ("takedown", 812)]
    for refused in (pin(place=3), ruling("bury")):
        with pytest.raises(Conflict, match=r"resume:812 was taken down by ana \(a reason\): release it first"):
            ruled(state, refused)
    assert [one.action for one in after(*state.held, ruling("release"), pin()).held] == ["pin", "pin"]


def test_a_bury_ends_the_pins_where_it_holds_and_a_pin_there_is_refused() -> None:
    state = after(pin(), pin(feed="flow"), ruling("bury", feed="total"))

    assert [(one.action, one.feed) for one in state.held] == [("pin", "flow"), ("bury", "total")]
    with pytest.raises(Conflict, match="was buried by ana"):
        ruled(state, pin())
    with pytest.raises(Conflict, match="was buried by ana"):
        ruled(after(ruling("bury")), pin(feed="discover"))
    assert [one.feed for one in after(*state.held, ruling("bury")).held] == [""], "everywhere ends those of one feed"


def test_a_place_has_one_pin_and_a_feed_one_of_an_item() -> None:
    state = after(pin(), pin(7, 2))

    with pytest.raises(Conflict, match=r"Place 2 of the feed total has resume:7, which ana pinned there"):
        ruled(state, pin(9, 2))
    assert {(one.id, one.place) for one in ruled(state, pin(9, 2), replace=True).held} == {(812, 1), (9, 2)}
    assert {(one.id, one.place) for one in ruled(state, pin(812, 3)).held} == {(812, 3), (7, 2)}, "it moves"
    assert len(ruled(state, pin(812, 1, feed="discover")).held) == 3


def test_what_is_over_holds_no_place() -> None:
    state = after(pin())

    assert state.in_force(NOW + 59.9) == state.held
    assert state.in_force(NOW + 60) == ()
    later = ruled(state, pin(9, 1, when=NOW + 61, until=NOW + 99))
    assert [one.id for one in later.held] == [9]


def test_a_release_ends_what_there_is_and_says_where_there_is_nothing() -> None:
    state = after(pin(), pin(feed="flow"))

    assert [one.feed for one in ruled(state, ruling("release", feed="flow")).held] == ["total"]
    with pytest.raises(NotFound, match="No ruling of resume:812 in the feed discover holds"):
        ruled(state, ruling("release", feed="discover"))
    with pytest.raises(NotFound, match="No ruling of resume:9 holds"):
        ruled(state, ruling("release", 9))


def test_there_is_a_most_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rulings, "MOST_RULINGS", 2)
    state = after(ruling("takedown", 1), ruling("takedown", 2))

    with pytest.raises(Conflict, match="There are 2 rulings, which is the most"):
        ruled(state, ruling("takedown", 3))
    assert len(ruled(state, ruling("takedown", 2)).held) == 2


def test_a_state_is_stored_whole_or_refused() -> None:
    state = after(pin(), ruling("takedown", 7))
    stored = state.encoded()

    assert decoded(stored) == state
    for damaged in (b"", stored[:-5], stored.replace(b"812", b"813", 1), stored[:64] + b"\n{}\n"):
        with pytest.raises(ValueError, match=r"checksum|missing|expected"):
            decoded(damaged)


def test_a_state_with_a_field_that_is_none_any_more_is_read() -> None:
    content = msgspec.json.encode({**msgspec.to_builtins(after(pin())), "moment": NOW})
    assert decoded(b"%b\n%b\n" % (hashlib.sha256(content).hexdigest().encode(), content)) == after(pin())


def test_the_history_says_what_held_at_a_moment() -> None:
    asked = [pin(), ruling("takedown", when=NOW + 10), ruling("release", when=NOW + 20), ruling("release", 5)]
    history = [Entry(number, one) for number, one in enumerate(asked, 1)]

    assert [one.action for one in held_at(history, NOW + 5)] == ["pin"]
    assert [one.action for one in held_at(history, NOW + 15)] == ["takedown"]
    assert held_at(history, NOW + 25) == ()
    assert msgspec.json.decode(msgspec.json.encode(history), type=list[Entry]) == history
