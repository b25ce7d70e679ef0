"""A feed by its name is the contract's feed in another form; filters keep items out and leave nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recommendation_service.catalog.filter_columns import FilterColumn, Listed, listed, ordered, value_number
from recommendation_service.feed import filters as feed_filters
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.model.kinds import ENDPOINTS, KINDS, MOST_KINDS, kind_name, kind_number
from recommendation_service.policies.policy import load_policy
from tests.support.catalogs import Challenge, User, Video, World, make_catalog
from tests.support.slates import request_for

VIDEOS = [Video(number, number % 9 + 1, skills=(f"skill {number % 5}",)) for number in range(1, 61)]
CHALLENGES = [Challenge(number, number % 4 + 1) for number in range(1, 31)]
WORLD = World(VIDEOS, CHALLENGES, [User(7, skills=("skill 1",))])
POLICY = load_policy()


def pipeline(*filters: FilterColumn) -> FeedPipeline:
    return FeedPipeline(Generation(replace(make_catalog(WORLD), filters=filters), POLICY))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_feed_by_its_name_holds_what_its_endpoint_does(endpoint: str) -> None:
    feeds, request = pipeline(), request_for(7, endpoint, 20)
    field = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}[endpoint]

    contract = json.loads(feeds.feed(request))["body"]
    named = json.loads(feeds.feed(request.but(by_name=True)))

    assert [str(one) for one in named.pop("ids")] == contract.pop(field)
    assert named == contract


def test_a_filter_keeps_out_what_does_not_pass_and_leaves_nothing_behind() -> None:
    colours = ["red" if number % 3 == 0 else "blue" for number in range(len(WORLD.items))]
    column = FilterColumn(
        "colour",
        "equal",
        False,
        [(0, len(VIDEOS))],
        values := listed([(one,) for one in colours]),
        None,
        ordered(values),
    )
    filtered, plain = pipeline(column), pipeline()
    request = request_for(7, "total", 30)
    asked = request.but(filters=(("colour", (value_number("RED "),)),))

    for _ in range(2):
        rows = filtered.rank(asked).items.tolist()
        assert all(colours[row] == "red" for row in rows if row < len(VIDEOS))
        assert any(row >= len(VIDEOS) for row in rows), "of another type it says nothing"
        assert filtered.feed(request) == plain.feed(request)


def test_numbers_are_at_most_what_is_asked_and_what_has_none_goes_by_the_rule() -> None:
    prices = np.array([np.nan if number % 4 == 0 else float(number) for number in range(len(WORLD.items))])
    everything = [(0, len(prices))]
    request = request_for(0, "discover", 60).but(filters=(("price", 20.0),))

    def found(*, passes_missing: bool) -> Any:
        column = FilterColumn("price", "at_most", passes_missing, everything, prices, None, ordered(prices))
        return prices[pipeline(column).rank(request).items]

    assert set(found(passes_missing=False)) == {float(number) for number in range(21) if number % 4}
    assert np.isnan(found(passes_missing=True)).any()


def passes(column: FilterColumn, asked: float | tuple[int, ...], row: int) -> bool:
    """The slow way."""
    if not any(start <= row < end for start, end in column.applies):
        return True
    if isinstance(column.items, Listed):
        own = column.items.values[column.items.offsets[row] : column.items.offsets[row + 1]].tolist()
        assert isinstance(asked, tuple)
        return bool(set(own) & set(asked)) if own else column.passes_missing
    value = column.items[row]
    return column.passes_missing if np.isnan(value) else bool(value <= asked)


@pytest.mark.parametrize("few", [0, 10, 1_000])
def test_what_filters_leave_is_all_that_a_feed_may_hold_whether_few_or_many_pass(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_filters, "FEW", few)
    rng, items = np.random.default_rng(few), len(WORLD.items)
    for _ in range(12):
        towns = listed([rng.choice(["a", "b", "c"], rng.integers(0, 3)).tolist() for _ in range(items)])
        prices = np.where(rng.random(items) < 0.2, np.nan, rng.integers(0, 5, items).astype(np.float64))
        rows = [(0, int(rng.integers(1, items)))]
        columns = [
            FilterColumn("town", "contained", bool(rng.integers(2)), rows, towns, None, ordered(towns)),
            FilterColumn("price", "at_most", bool(rng.integers(2)), [(0, items)], prices, None, ordered(prices)),
        ]
        feeds = pipeline(*columns)
        for number in range(4):
            asked = {"town": tuple(map(value_number, rng.choice(["a", "b", "x"], 2))), "price": float(number)}
            some = dict(list(asked.items())[: int(rng.integers(3))])
            request = request_for(0, "total", 100, f"r{number}").but(filters=tuple(some.items()))
            slate = feeds.rank(request)

            wanted = [
                all(passes(column, some[column.name], row) for column in columns if column.name in some)
                for row in range(items)
            ]
            assert sorted(slate.items.tolist()) == np.flatnonzero(wanted).tolist()


def test_what_passes_is_found_anew_where_little_of_it_may_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_filters, "KEPT_BYTES", 1)
    prices = np.arange(len(WORLD.items), dtype=np.float64)
    feeds = pipeline(FilterColumn("price", "at_most", False, [(0, len(prices))], prices, None, ordered(prices)))

    for most in (3.0, 5.0, 3.0):
        request = request_for(0, "total", 100).but(filters=(("price", most),))
        assert sorted(feeds.rank(request).items.tolist()) == list(range(int(most) + 1))


def test_kinds_have_names_in_records_and_back() -> None:
    names = [kind_name(number) for number in range(MOST_KINDS)]

    assert names[: len(KINDS)] == list(KINDS)
    assert [kind_number(name) for name in names] == list(range(MOST_KINDS))
    for wrong in ("kind_3", "kind_14", "kind_05", "XYZ"):
        with pytest.raises(ValueError, match=r"."):
            kind_number(wrong)
