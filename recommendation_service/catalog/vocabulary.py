"""Numbers for tokens and cities, in order of first use."""

from collections.abc import Sequence

import numpy as np

from recommendation_service.model.columns import (
    ATTRIBUTE_PLACES,
    SKILL_PLACES,
    TOKEN_PLACES,
    Bytes,
    Int32,
    Int64,
    hash_token,
)

TOKEN_KINDS = ("skill", "knowledge", "tool", "language")
ABSENT_KIND = 255
_PLACES = (0, SKILL_PLACES, SKILL_PLACES + ATTRIBUTE_PLACES, SKILL_PLACES + 2 * ATTRIBUTE_PLACES)

Lists = tuple[list[str], list[str], list[str], list[str]]


class Vocabulary:
    """Tokens by kind and text; the absent token's number is the number of all. ``kinds``: (4,) what they are called."""

    def __init__(self, kinds: Sequence[str] = TOKEN_KINDS) -> None:
        self._kind_names = tuple(kinds)
        self._numbers: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, lists: Lists) -> list[int]:
        """Numbers of all entries, adding those that are new."""
        known = self._numbers
        return [known.setdefault((kind, entry), len(known)) for kind, entries in enumerate(lists) for entry in entries]

    def rows(self, items: Sequence[Lists]) -> Int32:
        """(n, 14): each item's tokens in their places; -1 where there are fewer, see ``fill_absent``."""
        rows = np.full((len(items), TOKEN_PLACES), -1, np.int32)
        known = self._numbers
        for row, lists in enumerate(items):
            for kind, entries in enumerate(lists):
                place = _PLACES[kind]
                for entry in entries:
                    rows[row, place] = known.setdefault((kind, entry), len(known))
                    place += 1
        return rows

    def fill_absent(self, rows: Int32) -> Int32:
        rows[rows < 0] = len(self)
        return rows

    def kinds(self) -> Bytes:
        """(T + 1,) kind of each token."""
        return np.array([kind for kind, _ in self._numbers] + [ABSENT_KIND], np.uint8)

    def hashes(self) -> tuple[Int64, Int32]:
        """(T,) hashes, ascending, and the tokens' numbers."""
        hashes = np.array([hash_token(kind, entry) for kind, entry in self._numbers], np.int64)
        order = np.argsort(hashes)
        return hashes[order], order.astype(np.int32)

    def names(self) -> list[list[str]]:
        """[kind, text] of each token, by number."""
        return [[self._kind_names[kind], entry] for kind, entry in self._numbers]
