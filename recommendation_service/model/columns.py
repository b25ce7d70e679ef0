"""The catalog's columns: what each holds, its shape and its type.

M items are those of Y types, one type after the other and each sorted by number, so that two of one number and of
different types are different items. Types that bear tokens come first. K kinds, T tokens, N creators, U users.
Lists of lists are pairs of columns, ``*_offsets`` and the values (compressed sparse rows).
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.model.item_keys import item_keys

LAYOUT_VERSION = 2

# Fibonacci hashing: 2^64 divided by the golden ratio. The upper half of the product is well mixed.
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
HASH_SHIFT = np.uint64(32)
EMPTY = -1

# Places of an item's tokens: skills, knowledges, tools, languages.
SKILL_PLACES = 5
ATTRIBUTE_PLACES = 3
TOKEN_PLACES = SKILL_PLACES + 3 * ATTRIBUTE_PLACES

Bytes = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class CatalogArrays(NamedTuple):
    """Everything that the kernels read; each field is a file of the catalog version."""

    # Items.
    item_id: Int64  # (M,) the operator's number
    type_number: Int64  # (Y,) each type's, as keys have it
    type_offsets: Int64  # (Y + 1,) where each type's items begin
    features: Float32  # (M, d) the features that do not depend on the user; of those that do, 0 or their item's part
    hand: Float32  # (M, K) the part of each kind's hand-set sum that does not depend on the user
    tokens: Int32  # (M, 14) skills, knowledges, tools, languages; T where there are fewer
    skill_count: Bytes  # (M,)
    created: Float64  # (M,) seconds since 1970
    creator: Int32  # (M,) index of the creator
    city: Int32  # (M,) index of the creator's city; 0 is unknown
    # To find an item: open addressing with linear probing, see ``place_of_key``; P is a power of two, at least 2M.
    hash_key: Int64  # (P,) the items' keys (item_keys.py); -1, which is no item's, for an empty place
    hash_item: Int32  # (P,)
    # Creators.
    creator_id: Int64  # (N,) the operator's number, ascending
    creator_offsets: Int64  # (N + 1,)
    creator_items: Int32
    # Orderings: for each kind the items it may hold, best static sum first.
    order_offsets: Int64  # (K + 1,)
    order_items: Int32
    # Inverted lists: for each token the items that bear it, best static AU sum first.
    token_offsets: Int64  # (T + 1,)
    token_items: Int32
    # The same for pairs of skills; pair_key = smaller · T + larger, ascending. Empty in small catalogs.
    pair_key: Int64
    pair_offsets: Int64
    pair_items: Int32
    # To find a token that is no item's here: its hash, ascending, and its number.
    token_hash: Int64  # (T,) see ``hash_token``
    token_of_hash: Int32  # (T,)
    token_kind: Bytes  # (T + 1,) 0 skill, 1 knowledge, 2 tool, 3 language; 255 for the absent token
    # Users.
    user_id: Int64  # (U,) ascending
    history_offsets: Int64  # (U + 1,)
    history_items: Int32  # items that the user interacted with, latest first, each once
    history_weight: Float32  # the strongest interaction with that item
    history_when: Int64  # when it last was, seconds since 1970
    network_offsets: Int64  # (U + 1,)
    network_creators: Int32  # creators among the user's connections
    connections: Int32  # (U,) number of connections
    profile_offsets: Int64  # (U + 1,)
    profile_tokens: Int32
    # What people took together; all empty, or 0, where there is too little to tell (catalog/collaborative.py).
    neighbour_offsets: Int64  # (M + 1,)
    neighbour_items: Int32  # for each item those that people take after it, the likeliest first
    neighbour_weight: Float32  # how much each is to be expected, more than 0
    trending: Float32  # (M,) how often an item was taken, what is a half-life ago counting half; the largest is 1
    # Sizes that no shape tells.
    worded: int  # items of the types that bear tokens
    creators: int
    cities: int


def rows_of(arrays: CatalogArrays, item_type: int) -> tuple[int, int]:
    """Where the items of a type are, the first and the one after the last; (0, 0): it has none."""
    for place, number in enumerate(arrays.type_number.tolist()):
        if number == item_type:
            return int(arrays.type_offsets[place]), int(arrays.type_offsets[place + 1])
    return 0, 0


def keys_of(type_number: Int64, type_offsets: Int64, item_id: Int64) -> Int64:
    """(M,) the items' keys. Raises ValueError for what no key can hold."""
    places = zip(type_offsets[:-1].tolist(), type_offsets[1:].tolist(), strict=True)
    of_types = zip(type_number.tolist(), places, strict=True)
    return np.concatenate([np.zeros(0, np.int64), *(item_keys(n, item_id[a:b]) for n, (a, b) in of_types)])


def hash_token(kind: int, text: str) -> int:
    """63 bits of a token's kind (as in ``token_kind``) and its text as it is compared."""
    digest = hashlib.blake2b(f"{kind}:{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


COLUMNS: dict[str, tuple[Any, int]] = {
    "item_id": (np.int64, 1),
    "type_number": (np.int64, 1),
    "type_offsets": (np.int64, 1),
    "features": (np.float32, 2),
    "hand": (np.float32, 2),
    "tokens": (np.int32, 2),
    "skill_count": (np.uint8, 1),
    "created": (np.float64, 1),
    "creator": (np.int32, 1),
    "city": (np.int32, 1),
    "hash_key": (np.int64, 1),
    "hash_item": (np.int32, 1),
    "creator_id": (np.int64, 1),
    "creator_offsets": (np.int64, 1),
    "creator_items": (np.int32, 1),
    "order_offsets": (np.int64, 1),
    "order_items": (np.int32, 1),
    "token_offsets": (np.int64, 1),
    "token_items": (np.int32, 1),
    "pair_key": (np.int64, 1),
    "pair_offsets": (np.int64, 1),
    "pair_items": (np.int32, 1),
    "token_hash": (np.int64, 1),
    "token_of_hash": (np.int32, 1),
    "token_kind": (np.uint8, 1),
    "user_id": (np.int64, 1),
    "history_offsets": (np.int64, 1),
    "history_items": (np.int32, 1),
    "history_weight": (np.float32, 1),
    "history_when": (np.int64, 1),
    "network_offsets": (np.int64, 1),
    "network_creators": (np.int32, 1),
    "connections": (np.int32, 1),
    "profile_offsets": (np.int64, 1),
    "profile_tokens": (np.int32, 1),
    "neighbour_offsets": (np.int64, 1),
    "neighbour_items": (np.int32, 1),
    "neighbour_weight": (np.float32, 1),
    "trending": (np.float32, 1),
}
# What a version of an earlier release has no file of.
LATER_COLUMNS = ("neighbour_offsets", "neighbour_items", "neighbour_weight", "trending", "type_number", "type_offsets")
SIZES = ("worded", "creators", "cities")
