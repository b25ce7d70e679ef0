"""What was recorded, out of the database: which event belongs to which feed, and what is left out."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from sqlalchemy.engine import Engine

from recommendation_service.evaluation.own_log import by_shadow
from recommendation_service.evaluation.own_report import RewardsByRows
from recommendation_service.evaluation.recorded import Window, read_recorded
from recommendation_service.evaluation.recorded_columns import Recorded
from recommendation_service.flush.event_writer import EventWriter
from recommendation_service.flush.rows import Event
from recommendation_service.learning.format import load_learning
from recommendation_service.learning.row_notes import ToldByRow, ToldByRows
from recommendation_service.log.records import ShadowRecord
from recommendation_service.model.item_keys import item_key
from recommendation_service.ranking.packed_slots import pack_as_they_are
from tests.support.events import HAPPENED_MS, feed, feedback

HOUR_MS = 3_600_000
ALL = Window(0, HAPPENED_MS + 1000 * HOUR_MS)
# Items of ``feed``: 100 and 101 in AU, 102 a challenge. A save is worth .6, and a like .5.
REQUEST = bytes(range(16))


def recorded(engine: Engine, *records: Event, window: Window = ALL, shadow: str | None = None) -> Recorded:
    assert not EventWriter(engine).write(list(records)).left
    return read_recorded(engine, window, load_learning(), shadow, lambda *_: None)


def save(**fields: Any) -> Event:
    return feedback(**{"event": "save", "item_id": 101, "request_id": REQUEST.hex()} | fields)


def test_an_event_counts_once_for_the_feed_that_it_names(flushed_sqlite: Engine) -> None:
    found = recorded(
        flushed_sqlite,
        feed(request_id=REQUEST),
        feed(),
        save(happened_ms=HAPPENED_MS + 5),
        save(happened_ms=HAPPENED_MS + 9),
        save(event="like", happened_ms=HAPPENED_MS + 9),
        save(item_id=999),
    )
    assert found.rewards[found.place_of(np.frombuffer(REQUEST, np.uint64)[np.newaxis])[0]].tolist() == pytest.approx(
        [0.0, 1.0, 0.0]  # .6 + .5, and no slot more than 1
    )
    assert float(found.rewards.sum()) == pytest.approx(1.0)


def test_an_event_that_names_none_is_of_the_users_latest_feed_before_it_that_showed_the_item(
    flushed_sqlite: Engine,
) -> None:
    later, showed_less = HAPPENED_MS + 1_000, HAPPENED_MS + 2_000
    found = recorded(
        flushed_sqlite,
        feed(),
        feed(happened_ms=later),
        feed(items=1, happened_ms=showed_less),
        feed(happened_ms=HAPPENED_MS + 9_000),
        save(request_id=None, happened_ms=HAPPENED_MS + 5_000),
        save(request_id=None, user_id=8, happened_ms=HAPPENED_MS + 5_000),
    )
    assert found.happened_ms[found.rewards[:, 1] > 0].tolist() == [later]


def test_items_of_any_number_are_told_apart(flushed_sqlite: Engine) -> None:
    """Keys are kept in 4 bytes, and the few that do not fit in 8."""
    large = 2**40 + 101
    slots = feed().slots()
    packed = pack_as_they_are(slots._replace(items=np.array([large << 1, 101 << 1, 7 << 1])))
    found = recorded(
        flushed_sqlite,
        feed(request_id=REQUEST),
        feed(request_id=REQUEST[::-1], packed=packed),
        feed(request_id=bytes(16 * [9])),
        save(request_id=REQUEST[::-1].hex(), item_id=large),
        save(request_id=bytes(16 * [9]).hex(), event="like"),
    )
    assert np.array(sorted(found.rewards.tolist())) == pytest.approx(np.array([[0, 0, 0], [0, 0.5, 0], [0.6, 0, 0]]))


def test_of_anonymous_people_the_session_tells(flushed_sqlite: Engine) -> None:
    found = recorded(
        flushed_sqlite,
        feed(user_id=0, session_id="mine"),
        feed(user_id=0, session_id="other"),
        save(user_id=0, session_id="mine", request_id=None, happened_ms=HAPPENED_MS + 5),
    )
    assert np.count_nonzero(found.rewards > 0) == 1
    assert (found.users < 0).all()
    assert len(set(found.users.tolist())) == 2


def test_what_came_too_late_and_what_is_not_personal_is_left_out(flushed_sqlite: Engine) -> None:
    found = recorded(
        flushed_sqlite,
        feed(request_id=REQUEST),
        feed(personal=False),
        save(happened_ms=HAPPENED_MS + 25 * HOUR_MS, received_ms=HAPPENED_MS + 25 * HOUR_MS),
    )
    assert len(found.users) == 1
    assert found.rewards[0].tolist() == [0.0, 0.0, 0.0]


def test_feeds_are_those_of_the_window_and_their_events_may_be_after_it(flushed_sqlite: Engine) -> None:
    window = Window(HAPPENED_MS, HAPPENED_MS + 10)
    found = recorded(
        flushed_sqlite,
        feed(request_id=REQUEST),
        feed(happened_ms=HAPPENED_MS - 1),
        feed(happened_ms=HAPPENED_MS + 10),
        save(happened_ms=HAPPENED_MS + HOUR_MS),
        window=window,
    )
    assert found.rewards.tolist() == [pytest.approx([0.0, 0.6, 0.0])]


def test_of_feeds_of_any_name_and_length_those_beside_which_the_policy_was_loaded_are_weighed(
    flushed_sqlite: Engine,
) -> None:
    odds = np.array([0.4, 0.3, 0.2], np.float32)
    found = recorded(
        flushed_sqlite,
        feed(request_id=REQUEST, endpoint="songs", shadows=(ShadowRecord("bold", odds.tobytes()),)),
        feed(shadows=(ShadowRecord("other", odds.tobytes()),)),
        feed(items=5),
        save(),
        shadow="bold",
    )
    assert sorted(found.names) == ["songs", "total"]
    evidence = by_shadow(found, "songs")
    assert evidence.feeds.target[0, :3].tolist() == pytest.approx(odds.tolist())
    assert evidence.feeds.logged[0, :3].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert evidence.feeds.rewards[0, :3].tolist() == pytest.approx([0.0, 0.6, 0.0])
    assert by_shadow(found, "total").feeds.feeds == 0


def test_a_row_that_no_release_has_written_is_counted_and_the_others_are_read(flushed_sqlite: Engine) -> None:
    with flushed_sqlite.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO recs_events (event_id, event, user_id, request_id, endpoint, flags, happened_at, received_at, "
            "properties, slots, flush_id) VALUES (?, 'feed', 7, ?, 'total', 0, '2026-09-21 14:13:20.250', "
            "'2026-09-21 14:13:20.250', '{}', ?, 1)",
            (os.urandom(16).hex(), REQUEST.hex(), b"\x02nothing"),
        )
    found = recorded(flushed_sqlite, feed())
    assert (len(found.users), found.unread) == (1, 1)


def test_deeds_that_no_release_has_written_are_counted_and_those_beside_them_are_read(flushed_sqlite: Engine) -> None:
    wrong = {
        "item_id": (2**62, 1.5, "one", None),
        "item_type": ("nothing", "type_2", None),
        "happened_at": ("2026-09-21 at noon",),
    }
    requests = [number.to_bytes(16, "little") for number in range(1, 51)]
    told = [save(request_id=request.hex()) for request in requests]
    assert not EventWriter(flushed_sqlite).write([*told, *(feed(request_id=request) for request in requests)]).left
    with flushed_sqlite.begin() as connection:
        for place, (column, value) in enumerate((name, value) for name, values in wrong.items() for value in values):
            changed = f"UPDATE recs_events SET {column} = ? WHERE request_id = ? AND event = 'save'"
            connection.exec_driver_sql(changed, (value, requests[5 * place].hex()))
    found = read_recorded(flushed_sqlite, ALL, load_learning(), None, lambda *_: None)
    assert (len(found.users), found.unread) == (50, 8)
    assert np.count_nonzero(found.rewards > 0) == 50 - 8


def test_a_request_that_is_none_is_of_no_feed_and_harms_no_other(flushed_sqlite: Engine) -> None:
    odd = ["", "nonsense", REQUEST.hex()[:-2], REQUEST.hex() + "00", " " + REQUEST.hex()[1:], REQUEST.hex()[:-1] + "g"]
    found = recorded(
        flushed_sqlite, feed(request_id=REQUEST), *(save(request_id=each) for each in [*odd, REQUEST.hex(), *odd])
    )
    assert found.rewards.tolist() == [pytest.approx([0.0, 0.6, 0.0])]
    assert found.unread == 0


def test_what_rows_told_of_a_feed_counts_where_no_event_tells_the_same(flushed_sqlite: Engine) -> None:
    told = [
        ToldByRow(REQUEST, item_key(0, 101), "save", 0.6, HAPPENED_MS + 9),
        ToldByRow(REQUEST, item_key(0, 100), "like", 0.5, HAPPENED_MS + 9),
        ToldByRow(bytes(16 * [7]), item_key(0, 100), "like", 0.5, HAPPENED_MS + 9),
    ]
    assert not EventWriter(flushed_sqlite).write([feed(request_id=REQUEST), save(happened_ms=HAPPENED_MS + 5)]).left
    found = read_recorded(flushed_sqlite, ALL, load_learning(), None, lambda *_: None, by_rows=told)

    assert found.rewards.tolist() == [pytest.approx([0.5, 0.6, 0.0])]
    counted = RewardsByRows.of(ToldByRows(told, HAPPENED_MS), found)
    assert (counted.counted, counted.since) == (2, "2026-09-21 14:13")
    assert "2 rewards that rows" in str(counted)
    assert RewardsByRows.of(None, found).since is None
