"""Entries of what people did: of items of every type, and nothing of what no key can hold."""

from __future__ import annotations

import pytest

from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.memory.from_records import entries_of_event
from recommendation_service.model.item_keys import CREATOR, LARGEST_ITEM, LARGEST_TYPE, item_key
from recommendation_service.ranking.seen import ACTED, pack_detail

NOW = 1_800_000_000


@pytest.mark.parametrize("item_type", [RESUME, CHALLENGE, CREATOR, LARGEST_TYPE])
def test_an_event_is_an_entry_of_its_item(item_type: int) -> None:
    assert list(entries_of_event(ACTED, item_type, 7, 0, None, NOW)) == [
        (item_key(item_type, 7), pack_detail(NOW, 0, 0, ACTED))
    ]


@pytest.mark.parametrize(
    ("item_type", "item_id"), [(RESUME, -1), (RESUME, LARGEST_ITEM + 1), (CREATOR, 0), (LARGEST_TYPE + 1, 7), (-1, 7)]
)
def test_an_item_that_no_key_can_hold_is_left_out(item_type: int, item_id: int) -> None:
    assert list(entries_of_event(ACTED, item_type, item_id, 0, None, NOW)) == []
