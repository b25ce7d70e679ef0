"""What a source tells of an item's row, whether a build reads it or not."""

from typing import NamedTuple


class ItemRow(NamedTuple):
    """An item's row as it is now."""

    status: str
    broken: list[str]  # rules, in the order in which people would think of them; empty: a build reads it
