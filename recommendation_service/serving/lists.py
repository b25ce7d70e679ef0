"""Lists that are nobody's in particular: what is like an item, what is popular, what came last.

All of it is in the mapped catalog, so none asks a database, and none holds what the build kept out.
"""

from typing import Any, NamedTuple

import msgspec
import numpy as np

from recommendation_service.catalog.store import Catalog
from recommendation_service.model.columns import Bytes, Float64, Int32, Int64
from recommendation_service.model.text_ids import ITEM_BITS, number_of_text

FIRST_LOOK = 1024  # rows of an order that are looked at together; each next look is at twice as many
MOST_CANDIDATES = 2048  # that share a term with an item
DIGITS = 18  # of an id that is a number, at most
LONGEST_LOOK = 1 << 14  # at the items of one term, the best of them

_encode = msgspec.json.Encoder().encode


class Asked(NamedTuple):
    """What a list holds, beside what it is a list of."""

    rows: tuple[int, int]  # of the catalog, the first and the one after the last: those of a type, or all
    barred: Bytes | None  # (M,) not 0 where an item may not be shown; None: all may
    offset: int
    size: int

    @property
    def needed(self) -> int:
        """One more than the list holds, which tells whether something comes after it."""
        return self.offset + self.size + 1

    def among(self, items: Int32) -> Int32:
        """Those that the list may hold, in their order."""
        start, end = self.rows
        items = items[(items >= start) & (items < end)]
        return items if self.barred is None else items[self.barred[items] == 0]


def row_of(catalog: Catalog, item_type: str, text: str) -> int:
    """The row of an item whose id looks like that; -1 where there is none."""
    start, end = catalog.rows_of_type.get(item_type, (0, 0))
    numbers, texts = catalog.arrays.item_id[start:end], catalog.item_texts
    tried = [number_of_text(text, ITEM_BITS)] if texts is not None else []
    if text.isascii() and text.isdigit() and len(text) <= DIGITS:
        tried.append(int(text))
    for number in tried:
        place = int(np.searchsorted(numbers, number))
        if place < len(numbers) and numbers[place] == number and str(catalog.id_of(start + place)) == text:
            return start + place
    return -1


def in_order(order: Int32, asked: Asked) -> list[int]:
    """The first of an order of all items, as many as are needed to render the list."""
    found: list[int] = []
    start, look = 0, FIRST_LOOK
    while start < len(order) and len(found) < asked.needed:
        found += asked.among(order[start : start + look]).tolist()
        start, look = start + look, 2 * look
    return found[: asked.needed]


def similar(catalog: Catalog, item: int, asked: Asked) -> list[int]:
    """What people take after the item, more than they take it anyhow, and what shares terms with it: half each, the
    best of either counting 1. What many take stands in most lists, so there it counts less by the root of how popular
    it is (as RP3beta: Paudel, Christoffel, Newell & Bernstein, TiiS 2017, with β of a half)."""
    arrays = catalog.arrays
    start, end = arrays.neighbour_offsets[item], arrays.neighbour_offsets[item + 1]
    taken = arrays.neighbour_items[start:end]
    items = np.union1d(asked.among(taken), _sharing_terms(catalog, item, asked)).astype(np.int64)
    items = items[items != item]
    weight, popularity = np.zeros(len(items)), arrays.trending[items].astype(np.float64)
    _, place, of_list = np.intersect1d(items, taken, return_indices=True)
    weight[place] = arrays.neighbour_weight[start:end][of_list]
    usual = arrays.trending[taken].mean() if len(taken) else 0.0
    score = _of_the_best(weight / np.sqrt(popularity + usual + 1e-12)) + _cosines(catalog, item, items)
    order = np.lexsort((items, -popularity, -score))
    return [int(one) for one in items[order][: asked.needed]]


def _of_the_best(values: Float64) -> Float64:
    largest = values.max(initial=0.0)
    return values / largest if largest > 0.0 else values


def _sharing_terms(catalog: Catalog, item: int, asked: Asked) -> Int64:
    """Items that share terms with one. Of terms that many bear only the best items are looked at, and those of rare
    terms first."""
    arrays = catalog.arrays
    offsets, own = arrays.token_offsets, _terms_of(catalog, item)
    found, count = [np.zeros(0, np.int32)], 0
    for term in own[np.argsort(_uses(catalog, own), kind="stable")].tolist():
        start, end = int(offsets[term]), int(offsets[term + 1])
        bearing = arrays.token_items[start : min(end, start + LONGEST_LOOK)]
        found.append(asked.among(bearing)[: MOST_CANDIDATES - count])
        count += len(found[-1])
        if count >= MOST_CANDIDATES:
            break
    return np.unique(np.concatenate(found)).astype(np.int64)


def _cosines(catalog: Catalog, item: int, items: Int64) -> Float64:
    """(n,) of the items' terms and the item's, of which each weighs the logarithm of how rare it is (inverse document
    frequency: Spärck Jones 1972)."""
    arrays = catalog.arrays

    def weight(terms: Any) -> Any:
        used = _uses(catalog, terms)
        return np.where(used > 0, np.log1p(arrays.worded / np.maximum(used, 1)), 0.0) ** 2

    own, terms = _terms_of(catalog, item), arrays.tokens[items]  # (n, 14)
    weights = weight(terms)
    shared = np.where(np.isin(terms, own), weights, 0.0).sum(axis=1)
    return np.asarray(shared / np.sqrt(np.maximum(weights.sum(axis=1) * weight(own).sum(), 1e-12)), np.float64)


def _terms_of(catalog: Catalog, item: int) -> Int32:
    terms, absent = catalog.arrays.tokens[item], len(catalog.arrays.token_offsets) - 1
    return np.unique(terms[terms != absent])


def _uses(catalog: Catalog, terms: Any) -> Any:
    """How many items bear each; of the absent term none."""
    offsets = catalog.arrays.token_offsets
    return offsets[np.minimum(terms + 1, len(offsets) - 1)] - offsets[terms]


def render(catalog: Catalog, rows: list[int], asked: Asked) -> bytes:
    """The answer's body: `next` is the offset of what comes after, null where nothing does."""
    shown = rows[asked.offset : asked.offset + asked.size]
    after = asked.offset + asked.size if len(rows) == asked.needed else None
    items = b",".join(catalog.item_json(row) for row in shown)
    return b'{"ids":%b,"items":[%b],"next":%b}' % (
        _encode([catalog.id_of(row) for row in shown]),
        items,
        _encode(after),
    )
