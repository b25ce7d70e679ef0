"""What a catalog holds of one item or one user, in words: for people who ask why."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from recommendation_service.catalog.store import Catalog
from recommendation_service.core.errors import CatalogError
from recommendation_service.model.columns import Int64, rows_of
from recommendation_service.model.features import FEATURE_NAMES
from recommendation_service.model.item_keys import CREATOR, LARGEST_ITEM, LARGEST_OTHER, NamedItem, item_key, type_name
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.text_ids import ITEM_BITS, LONGEST_TEXT_ID, number_of_text
from recommendation_service.model.words import FIRST_WORDS, Words


def read_item(text: str, types: Mapping[str, int], text_types: Collection[str] = ()) -> NamedItem:
    """An item that is named as ``TYPE:812``; an id that is text may have colons of its own.

    ``types``: numbers by name, as a catalog has them; ``text_types``: those whose ids are text.

    Raises ValueError that says what is wrong.
    """
    name, _, digits = text.partition(":")
    if name not in types:
        raise ValueError(f"must be TYPE:ID with a TYPE of {', '.join(types)}, but is {text[:64]!r}")
    if name in text_types:
        if not 0 < len(digits) <= LONGEST_TEXT_ID:
            raise ValueError(f"must have an id of 1 to {LONGEST_TEXT_ID} characters, but is {text[:64]!r}")
        return NamedItem(types[name], number_of_text(digits, ITEM_BITS), digits)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(LARGEST_ITEM))):
        raise ValueError(f"must be TYPE:ID with an ID of digits alone, but is {text[:64]!r}")
    largest = LARGEST_ITEM if types[name] <= CREATOR else LARGEST_OTHER
    if not 0 < int(digits) <= largest:
        raise ValueError(f"must have an id from 1 to {largest}, but is {text[:64]!r}")
    return NamedItem(types[name], int(digits), int(digits))


def describe_item(
    catalog: Catalog, names: dict[str, Any], named: NamedItem, words: Words = FIRST_WORDS
) -> dict[str, Any]:
    """Raises CatalogError where the item is not in the catalog."""
    arrays = catalog.arrays
    item_type, number, given = named
    start, end = rows_of(arrays, item_type)
    item = _place(arrays.item_id[start:end], number) + start
    if item < start:
        what = {number: name for name, number in catalog.item_types.items()}.get(item_type, type_name(item_type))
        raise CatalogError(
            f"There is no {what} {given} in catalog {catalog.version}: {_absence(catalog, item_type, number)}."
        )
    neighbours = slice(int(arrays.neighbour_offsets[item]), int(arrays.neighbour_offsets[item + 1]))
    feature_names = (*FEATURE_NAMES, *(added.split(" = ")[0] for added in catalog.added_features))
    return {
        "item": msgspec.json.decode(catalog.item_json(item)),
        "created": datetime.fromtimestamp(float(arrays.created[item]), UTC).isoformat(),
        "city": names["cities"][int(arrays.city[item])],
        "tokens": [names["tokens"][token] for token in arrays.tokens[item] if token < len(names["tokens"])],
        "features": dict(zip(feature_names, arrays.features[item].tolist(), strict=True)),
        "static_sums": {
            words.kind_name(kind): value
            for kind, value in enumerate(arrays.hand[item].tolist())
            if not words.is_mapped or kind >= len(KINDS)  # those before are the first operator's
        },
        "trending": float(arrays.trending[item]),
        "taken_after_it": [
            {
                "type": catalog.type_of(int(other)),
                "id": catalog.id_of(int(other)),
                "weight": float(weight),
            }
            for other, weight in zip(
                arrays.neighbour_items[neighbours], arrays.neighbour_weight[neighbours], strict=True
            )
        ],
    }


def _absence(catalog: Catalog, item_type: int, number: int) -> str:
    if catalog.rejected is None:
        return "see the rules of eligibility"
    rule = catalog.rejected.rule_of(item_key(item_type, number)) if 0 < number <= LARGEST_ITEM else None
    if rule is None:
        return "its build read no such row, which is not in the tables, or is deleted, unpublished or too old"
    return f"its row broke the rule {rule}"


def describe_user(catalog: Catalog, names: dict[str, Any], number: int, given: int | str) -> dict[str, Any]:
    """``given``: the id as the operator has it.

    Raises CatalogError where the user is not in the catalog (who still gets a feed).
    """
    arrays = catalog.arrays
    row = _place(arrays.user_id, number)
    if row < 0:
        raise CatalogError(f"User {given} is not in catalog {catalog.version}, and gets the feed of an unknown user.")
    history = slice(int(arrays.history_offsets[row]), int(arrays.history_offsets[row + 1]))
    network = slice(int(arrays.network_offsets[row]), int(arrays.network_offsets[row + 1]))
    profile = slice(int(arrays.profile_offsets[row]), int(arrays.profile_offsets[row + 1]))
    return {
        "user_id": given,
        "history": [
            {
                "type": catalog.type_of(int(item)),
                "id": catalog.id_of(int(item)),
                "weight": float(weight),
            }
            for item, weight in zip(arrays.history_items[history], arrays.history_weight[history], strict=True)
        ],
        "connections": int(arrays.connections[row]),
        "creators_in_network": [
            catalog.id_of_creator(int(arrays.creator_id[creator])) for creator in arrays.network_creators[network]
        ],
        "profile": [names["tokens"][token] for token in arrays.profile_tokens[profile]],
    }


def _place(sorted_ids: Int64, number: int) -> int:
    place = int(np.searchsorted(sorted_ids, number))
    return place if place < len(sorted_ids) and sorted_ids[place] == number else -1
