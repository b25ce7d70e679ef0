"""A log of what people did with which items: frames of events and items, checked whole, as arrays.

A frame is a table of pandas, polars or pyarrow, or a dictionary of columns.

- Of events: ``user_id`` and ``item_id`` (numbers or text), ``happened_at`` (seconds since 1970, a time, or text in ISO
  8601; without a zone it is UTC), and, where there is more to tell, ``event`` (view, rating, save or match) and
  ``value`` (of a rating, 0 to 5).
- Of items: ``item_id``, and any of ``title``, ``skills`` (what the item is about: lists, or text with | between),
  ``creator_id``, ``created_at``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import narwhals as nw
import numpy as np
import numpy.typing as npt

from recommendation_service.evaluation.errors import EvaluationError

Int64 = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Float64 = npt.NDArray[np.float64]

EVENTS = ("view", "rating", "save", "match")
VIEW, RATING, SAVE, MATCH = range(len(EVENTS))
LARGEST_RATING = 5.0
# What is earlier is a zero date to the service, or was counted from somewhere else; what is later was written in
# milliseconds.
EARLIEST_SECOND, LATEST_SECOND = 86_401, 7_258_118_399  # 2 January 1970, and the end of 2199
EVENT_COLUMNS, ITEM_COLUMNS = ("user_id", "item_id", "happened_at"), ("item_id",)
SHOWN = 5  # examples in an error


@dataclass(frozen=True)
class InteractionLog:
    """n events in the order of their seconds, of U users and M items, both numbered from 0."""

    name: str
    user: Int64  # (n,)
    item: Int64  # (n,)
    when: Int64  # (n,) seconds since 1970
    event: Int8  # (n,) index into EVENTS
    value: Float64  # (n,) nan where the event has none
    users: int
    titles: list[str]  # of the M items, as all below
    skills: list[tuple[str, ...]]
    creator: Int64  # (M,) items of one number have one creator
    created: Int64  # (M,) seconds since 1970
    notice: str = ""  # licence and terms, to be printed

    @property
    def items(self) -> int:
        return len(self.titles)


def log_of_frames(events: Any, items: Any = None, *, name: str = "log", notice: str = "") -> InteractionLog:
    """Raises EvaluationError with every problem of both frames."""
    problems: list[str] = []
    told = _Frame("events", events, EVENT_COLUMNS, problems)
    described = _Frame("items", {"item_id": []} if items is None else items, ITEM_COLUMNS, problems)
    if told.frame is not None and not len(told.frame):
        problems.append("events: the log is empty.")
    users, event_items, when = told.ids("user_id"), told.ids("item_id"), told.seconds("happened_at")
    event, value = told.events("event", when), told.ratings("value")
    ids = described.ids("item_id")
    titles, skills, creators = described.texts("title"), described.lists("skills"), described.ids("creator_id")
    created = described.seconds("created_at")
    if ids is not None and event_items is not None and not problems:
        problems += _strange_items(event_items, ids if items is not None else None)
    if when is not None and len(when) and when.min() == when.max():
        problems.append("events: happened_at is the same second for all events, so that nothing was before them.")
    if problems:
        raise EvaluationError(problems)
    assert users is not None and event_items is not None and when is not None and ids is not None  # noqa: S101, PT018
    names = np.unique(event_items) if items is None else np.unique(ids)
    number = {item: place for place, item in enumerate(names.tolist())}
    user_names, user = np.unique(users, return_inverse=True)
    item = np.array([number[each] for each in event_items.tolist()], np.int64)
    order = np.argsort(when, kind="stable")
    user, item, when, event, value = user[order].astype(np.int64), item[order], when[order], event[order], value[order]
    place = np.argsort(ids, kind="stable") if items is not None else None
    return InteractionLog(
        name=name,
        user=user,
        item=item,
        when=when,
        event=event,
        value=value,
        users=len(user_names),
        titles=_ordered(titles, place) or [str(each) for each in names.tolist()],
        skills=_ordered(skills, place) or [()] * len(names),
        creator=_creators(creators, place, len(names)),
        created=_created(created, place, item, when, len(names)),
        notice=notice,
    )


class _Frame:
    """Columns of one frame as arrays; what is wrong with one is a problem, and the column None."""

    def __init__(self, name: str, native: Any, required: tuple[str, ...], problems: list[str]) -> None:
        self._name, self._problems = name, problems
        self.frame: nw.DataFrame[Any] | None = None
        try:
            if isinstance(native, Mapping):
                self.frame = nw.from_dict(
                    {str(key): _plain(column) for key, column in native.items()}, backend="pyarrow"
                )
            else:
                self.frame = nw.from_native(native, eager_only=True)
        except Exception as error:  # noqa: BLE001 - whatever a library of frames raises of what is none
            problems.append(f"{name}: this is no frame ({type(error).__name__}: {error}).")
            return
        missing = [column for column in required if column not in self.frame.columns]
        if missing:
            found = ", ".join(self.frame.columns) or "none"
            problems.append(f"{name}: there is no column {', '.join(missing)}; the columns are {found}.")

    def _column(self, name: str) -> "nw.Series[Any] | None":
        if self.frame is None or name not in self.frame.columns:
            return None
        return self.frame[name]

    def _refuse(self, column: str, rule: str, found: Any) -> None:
        self._problems.append(f"{self._name}: {column} must be {rule}, but is {found}.")

    def _has_gaps(self, column: str, series: "nw.Series[Any]", rule: str) -> bool:
        gaps = int(series.is_null().sum())
        if gaps:
            self._refuse(column, rule, f"empty in {gaps} of {len(series)} rows")
        return gaps > 0

    def ids(self, column: str) -> npt.NDArray[Any] | None:
        series, rule = self._column(column), "whole numbers or text"
        if series is None or self._has_gaps(column, series, rule):
            return None
        if not len(series):
            return np.zeros(0, np.int64)
        if series.dtype.is_integer():
            return np.asarray(series.to_numpy(), np.int64)
        values = series.to_list()
        if all(isinstance(value, str) for value in values):
            return np.array(values, dtype=np.str_)
        self._refuse(column, rule, f"{series.dtype}")
        return None

    def seconds(self, column: str) -> Int64 | None:
        series, rule = self._column(column), "seconds since 1970, times, or text in ISO 8601"
        if series is None or self._has_gaps(column, series, rule):
            return None
        if not len(series):
            return np.zeros(0, np.int64)
        if series.dtype == nw.String:
            try:
                values = np.array([_iso_seconds(value) for value in series.to_list()], np.float64)
            except ValueError as error:
                self._refuse(column, rule, f"other text: {error}")
                return None
        elif isinstance(series.dtype, nw.Datetime):
            values = np.asarray(series.dt.timestamp("ms").to_numpy(), np.float64) / 1000
        elif series.dtype.is_numeric():
            values = np.asarray(series.to_numpy(), np.float64)
        else:
            self._refuse(column, rule, f"{series.dtype}")
            return None
        wrong = ~np.isfinite(values) | (values < EARLIEST_SECOND) | (values > LATEST_SECOND)
        if wrong.any():
            found = f"{values[wrong][0]:g} and the like in {int(wrong.sum())} of {len(values)} rows"
            self._refuse(column, "from 2 January 1970 to 2199 (in seconds since 1970, where it is a number)", found)
            return None
        return np.floor(values).astype(np.int64)

    def events(self, column: str, like: Int64 | None) -> Int8:
        """What is no column is ratings where there are values, else views."""
        series = self._column(column)
        if series is None:
            is_rating = self._column("value") is not None
            return np.full(0 if like is None else len(like), RATING if is_rating else VIEW, np.int8)
        values = series.to_list()
        strange = sorted({str(value) for value in values if value not in EVENTS})
        if strange:
            self._refuse(column, f"one of {', '.join(EVENTS)}", _examples(strange))
            return np.zeros(0, np.int8)
        return np.array([EVENTS.index(value) for value in values], np.int8)

    def ratings(self, column: str) -> Float64:
        series = self._column(column)
        if series is None:
            return np.full(0 if self.frame is None else len(self.frame), np.nan)
        rule = f"numbers from 0 to {LARGEST_RATING:g}, or empty"
        if not series.dtype.is_numeric() and len(series):
            self._refuse(column, rule, f"{series.dtype}")
            return np.zeros(0)
        values = np.array([np.nan if value is None else value for value in series.to_list()], np.float64)
        wrong = ~np.isnan(values) & ~((values >= 0) & (values <= LARGEST_RATING))
        if wrong.any():
            self._refuse(column, rule, f"{values[wrong][0]:g} and the like in {int(wrong.sum())} rows")
        return values

    def texts(self, column: str) -> list[str] | None:
        series = self._column(column)
        return None if series is None else ["" if value is None else str(value) for value in series.to_list()]

    def lists(self, column: str) -> list[tuple[str, ...]] | None:
        series = self._column(column)
        if series is None:
            return None
        found = []
        for value in series.to_list():
            if value is not None and not isinstance(value, str | list | tuple):
                self._refuse(column, "lists of text, or text with | between", f"{series.dtype}")
                return None
            parts = value.split("|") if isinstance(value, str) else value or ()
            found.append(tuple(str(part).strip() for part in parts if str(part).strip()))
        return found


def _plain(column: Any) -> Any:
    return column.tolist() if isinstance(column, np.ndarray) else list(column)


def _iso_seconds(value: str) -> float:
    parsed = datetime.fromisoformat(value)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _strange_items(event_items: npt.NDArray[Any], ids: npt.NDArray[Any] | None) -> list[str]:
    if ids is None:
        return []
    problems = []
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        problems.append(f"items: item_id must name each item once, but {_examples(names[counts > 1])} come twice.")
    lacking = sorted(set(np.unique(event_items).tolist()) - set(names.tolist()), key=str)
    if lacking:
        problems.append(f"items: {len(lacking)} items of the events are missing: {_examples(lacking)}.")
    return problems


def _examples(values: Any) -> str:
    values = list(values)
    return ", ".join(map(str, values[:SHOWN])) + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")


def _ordered(values: list[Any] | None, place: Int64 | None) -> list[Any]:
    if values is None or place is None:
        return []
    return [values[row] for row in place.tolist()]


def _creators(creators: npt.NDArray[Any] | None, place: Int64 | None, items: int) -> Int64:
    """Where nobody says who made what, each item has a creator of its own."""
    if creators is None or place is None or not len(creators):
        return np.arange(items)
    return np.unique(creators[place], return_inverse=True)[1].astype(np.int64)


def _created(created: Int64 | None, place: Int64 | None, item: Int64, when: Int64, items: int) -> Int64:
    """An item is there from ``created_at`` on, and at the latest from its first event; one without either from the
    log's beginning."""
    first = np.full(items, when[0], np.int64)
    first[item[::-1]] = when[::-1]
    if created is None or place is None or not len(created):
        return first
    return cast("Int64", np.minimum(first, created[place]) if len(first) else first)
