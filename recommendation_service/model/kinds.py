"""Slot kinds and feeds as arrays and records have them.

A kind's number stands in records, and in what is remembered of users: the five that there were first keep theirs, and a
policy gives the numbers of its own. Of a feed's name records have the place in ``ENDPOINTS``, or the name itself.
"""

KINDS = ("VMP", "AU", "NU", "FW", "FLOW")
ENDPOINTS = ("total", "discover", "flow")
PINNED = 102  # in place of the pool that a slot's item was drawn from: an editor put it there, and nothing was drawn
MOST_KINDS = 14  # in what is remembered of users a kind has four bits, which may also say that there is none

_OWN = "kind_"


def kind_name(number: int) -> str:
    """As records are told to people. Raises IndexError for what no kind bears."""
    if not 0 <= number < MOST_KINDS:
        raise IndexError(f"there is no kind {number}")
    return KINDS[number] if number < len(KINDS) else f"{_OWN}{number}"


def kind_number(name: str) -> int:
    """Of what ``kind_name`` gave. Raises ValueError."""
    if name in KINDS:
        return KINDS.index(name)
    number = int(name.removeprefix(_OWN))
    if not len(KINDS) <= number < MOST_KINDS or name != f"{_OWN}{number}":
        raise ValueError(f"there is no kind {name!r}")
    return number


def feed_code(name: str) -> int | str:
    """A feed in records."""
    return ENDPOINTS.index(name) if name in ENDPOINTS else name
