"""What a query of a list says is read as it stands, whatever a mapping's filters are called."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from recommendation_service.api.documentation import DocumentedFeeds
from recommendation_service.api.lists import read_list_query
from recommendation_service.api.named_feeds import IdForms, NamedFeed
from recommendation_service.core.errors import InvalidRequest

FEED = NamedFeed("home", 10, {"type": "contained", "salary": "at_most"})
WORDS = DocumentedFeeds([FEED], IdForms(), {"job": (), "gig": ()}, has_search=False)


def wrong(query: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as raised:
        read_list_query(QueryParams(query), WORDS, [])
    return [(one["field"], one["problem"]) for one in raised.value.details]


def test_a_filter_called_type_is_not_the_type() -> None:
    assert wrong("type=job&type=gig") == [("type", "must be there once, but is there 2 times")]
    found = read_list_query(QueryParams("type=job&filters.type=a&filters.type=b"), WORDS, [])
    assert found.item_type == "job"
    [(name, values)] = found.filters
    assert (name, len(values)) == ("type", 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1_000", "nan", "inf", "much", ""])
def test_a_number_is_what_json_has_as_one(text: str) -> None:
    [(field, _)] = wrong(f"filters.salary={text}")
    assert field == "filters.salary"
