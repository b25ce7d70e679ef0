"""Frames of any library become a log; what cannot be one is refused with all that is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.files import log_of_files
from recommendation_service.evaluation.interaction_log import MATCH, RATING, VIEW, log_of_frames

EVENTS: dict[str, list[Any]] = {
    "user_id": [7, 9, 7],
    "item_id": ["b", "a", "a"],
    "happened_at": [1_767_225_700, 1_767_225_600, 1_767_225_800],
}
ITEMS: dict[str, list[Any]] = {
    "item_id": ["b", "a", "c"],
    "title": ["B", "A", "C"],
    "skills": ["x|y", "", "y"],
    "creator_id": [1, 1, 2],
    "created_at": [1_767_225_650, 1_767_225_700, 1_767_225_000],
}


def problems(events: Any, items: Any = None) -> list[str]:
    with pytest.raises(EvaluationError) as refused:
        log_of_frames(events, items)
    return refused.value.problems


@pytest.mark.parametrize(
    "frame", [dict, pd.DataFrame, pl.DataFrame, pa.table], ids=["dict", "pandas", "polars", "pyarrow"]
)
def test_frames_of_every_library_give_the_same_log(frame: Any) -> None:
    log = log_of_frames(frame(EVENTS), frame(ITEMS))
    assert (log.users, log.items, log.titles) == (2, 3, ["A", "B", "C"])
    assert log.user.tolist() == [1, 0, 0]
    assert log.item.tolist() == [0, 1, 0]
    assert log.skills == [(), ("x", "y"), ("y",)]
    assert log.creator.tolist() == [0, 0, 1]
    assert (log.event == VIEW).all()
    # An item is there from its first event on, even where somebody says later.
    assert log.created.tolist() == [1_767_225_600, 1_767_225_650, 1_767_225_000]


def test_times_may_be_numbers_text_or_times() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    other = datetime(2026, 1, 2, 12, tzinfo=UTC)
    for values in (
        [moment.timestamp(), other.timestamp()],
        ["2026-01-01T12:00:00Z", "2026-01-02 12:00:00"],
        pd.Series([moment, other]),
        pd.Series([moment.replace(tzinfo=None), other.replace(tzinfo=None)]),
    ):
        log = log_of_frames(pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "happened_at": values}))
        assert log.when.tolist() == [int(moment.timestamp()), int(other.timestamp())]


def test_ratings_and_kinds_of_events_are_taken_from_their_columns() -> None:
    rated = log_of_frames(EVENTS | {"value": [5, 3.5, None]})
    assert (rated.event == RATING).all()
    assert np.isnan(rated.value[2])
    assert log_of_frames(EVENTS | {"event": ["match", "view", "save"]}).event.tolist()[1] == MATCH


def test_missing_columns_are_named_with_those_that_are_there() -> None:
    assert problems({"user_id": [1]}, {"id": [1]}) == [
        "events: there is no column item_id, happened_at; the columns are user_id.",
        "items: there is no column item_id; the columns are id.",
    ]


def test_all_problems_of_both_frames_are_told_at_once() -> None:
    wrong = {
        "user_id": [1.5, 2.5],
        "item_id": [1, None],
        "happened_at": ["yesterday", "today"],
        "event": ["view", "glance"],
        "value": [9.0, 1.0],
    }
    found = problems(wrong, {"item_id": [1, 1], "skills": [3, 4]})
    for words in (
        "events: user_id must be whole numbers or text",
        "events: item_id must be whole numbers or text, but is empty in 1 of 2 rows",
        "events: happened_at must be seconds since 1970, times, or text in ISO 8601",
        "events: event must be one of view, rating, save, match, but is glance",
        "events: value must be numbers from 0 to 5, or empty, but is 9",
        "items: skills must be lists of text, or text with | between",
    ):
        assert any(words in problem for problem in found), words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user_id": [], "item_id": [], "happened_at": []}, "the log is empty"),
        ({"happened_at": [1_767_225_600] * 3}, "the same second for all events"),
        (
            {"happened_at": [1_767_225_600_000, 1_767_225_601_000, 1_767_225_602_000]},
            "from 2 January 1970 to 2199 (in seconds",
        ),
        ({"happened_at": [-1, 5, 6]}, "from 2 January 1970 to 2199"),
        ({"happened_at": [0, 3600, 7200]}, "but is 0 and the like in 3 of 3 rows"),
        ({"happened_at": [float("nan"), 5.0, 6.0]}, "happened_at must be"),
    ],
)
def test_a_log_that_nothing_can_be_told_from_is_refused(change: dict[str, Any], words: str) -> None:
    assert words in " ".join(problems(EVENTS | change))


def test_items_must_describe_each_item_of_the_events_once() -> None:
    found = problems(EVENTS, {"item_id": ["b", "b"]})
    assert found == [
        "items: item_id must name each item once, but b come twice.",
        "items: 1 items of the events are missing: a.",
    ]


def test_what_is_no_frame_is_refused() -> None:
    assert problems([1, 2, 3])[0].startswith("events: this is no frame")


def test_files_are_read_by_their_endings(tmp_path: Path) -> None:
    pd.DataFrame(EVENTS).to_csv(tmp_path / "events.csv", index=False)
    pl.DataFrame(ITEMS).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame(ITEMS).write_ndjson(tmp_path / "items.jsonl")
    for items in ("items.parquet", "items.jsonl"):
        assert log_of_files(tmp_path / "events.csv", tmp_path / items).titles == ["A", "B", "C"]
    (tmp_path / "items.parquet").write_bytes(b"no parquet")
    with pytest.raises(EvaluationError) as refused:
        log_of_files(tmp_path / "events.txt", tmp_path / "items.parquet")
    assert [problem.split(" ")[0] for problem in refused.value.problems] == [
        f"{tmp_path / 'events.txt'}:",
        f"{tmp_path / 'items.parquet'}",
    ]
