"""Orderings and inverted lists: what makes a feed's cost follow its candidates and not the catalog."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from recommendation_service.model.columns import (
    EMPTY,
    HASH_FACTOR,
    HASH_SHIFT,
    SKILL_PLACES,
    Float32,
    Float64,
    Int32,
    Int64,
)
from recommendation_service.policies.format import PolicyFile


def kind_orderings(
    hand: Float32, gate: Float64, age_days: Float64, rows_of_type: Mapping[str, tuple[int, int]], policy: PolicyFile
) -> tuple[Int64, Int32]:
    """For each kind the items that it may hold, best static sum first: offsets (K + 1,) and items.

    ``rows_of_type``: by item type the first and the one after the last. Of a kind that the policy leaves out, none.
    """
    offsets, orders = [0], []
    kind_rows = policy.rows_of_kinds(rows_of_type)
    for number, name in enumerate(policy.kind_names):
        kind = policy.kinds.get(name)
        if kind is None:
            offsets.append(offsets[-1])
            continue
        start, end = kind_rows[number]
        allowed = np.zeros(len(hand), bool)
        allowed[start:end] = True
        if kind.gate:
            allowed = allowed & (gate > 0)
        if kind.max_age_days is not None:
            allowed = allowed & (age_days <= kind.max_age_days)
        items = np.flatnonzero(allowed)
        orders.append(items[np.argsort(-hand[items, number], kind="stable")].astype(np.int32))
        offsets.append(offsets[-1] + len(items))
    return np.array(offsets, np.int64), np.concatenate(orders)


def token_lists(tokens: Int32, absent: int, score: Float32) -> tuple[Int64, Int32]:
    """For each token the items that bear it, best score first: offsets (T + 1,) and items."""
    items = np.repeat(np.arange(len(tokens), dtype=np.int32), tokens.shape[1])
    flat = tokens.reshape(-1)
    items, flat = items[flat != absent], flat[flat != absent]
    order = np.lexsort((items, -score[items], flat))
    return np.searchsorted(flat[order], np.arange(absent + 1)), items[order]


def pair_lists(tokens: Int32, absent: int, score: Float32) -> tuple[Int64, Int64, Int32]:
    """The same for pairs of skills: keys smaller · T + larger ascending, offsets, and items."""
    keys, items = [], []
    for a, b in combinations(range(SKILL_PLACES), 2):
        one, other = tokens[:, a].astype(np.int64), tokens[:, b].astype(np.int64)
        both = np.flatnonzero((one != absent) & (other != absent)).astype(np.int32)
        one, other = one[both], other[both]
        keys.append(np.minimum(one, other) * absent + np.maximum(one, other))
        items.append(both)
    key, item = np.concatenate(keys), np.concatenate(items)
    order = np.lexsort((item, -score[item], key))
    key, item = key[order], item[order]
    unique, first = np.unique(key, return_index=True)
    return unique, np.r_[first, len(key)].astype(np.int64), item


def hash_table(keys: Int64) -> tuple[Int64, Int32]:
    """(P,) keys and (P,) their indices in ``keys``, by open addressing with linear probing.

    All keys at once: each round places what finds its place empty, and of several that want one place the first.
    """
    size = 8
    while size < 2 * len(keys):
        size *= 2
    table, items = np.full(size, EMPTY, np.int64), np.zeros(size, np.int32)
    left = np.arange(len(keys))
    wanted = (keys.astype(np.uint64) * HASH_FACTOR >> HASH_SHIFT).astype(np.int64) & (size - 1)
    while len(left):
        places, first = np.unique(wanted[left], return_index=True)
        first = first[table[places] == EMPTY]
        placed = left[first]
        table[wanted[placed]], items[wanted[placed]] = keys[placed], placed
        left = np.delete(left, first)
        wanted[left] = (wanted[left] + 1) & (size - 1)
    return table, items
