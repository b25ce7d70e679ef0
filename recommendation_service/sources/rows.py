"""An operator's own rows that say what people did, in the order in which they came."""

from typing import NamedTuple


class OperatorRow(NamedTuple):
    """What is absent, or is none (a zero date, a user 0), is None."""

    id: int
    user_id: int | None
    item: int | None  # key
    says: str | None  # the word of its table that tells what was done; None: nothing that could be learned
    value: float | None
    happened_ms: int | None  # since 1970; it may be in the future
    who: str = ""  # where ids are made of times: tells rows of one id apart, by who did it to what


class Page(NamedTuple):
    """Some rows by id, and the last id that the table had at that moment; 0: it is empty. ``read_to``: no row up to
    that id was left out; None: none was at all."""

    rows: list[OperatorRow]
    last_id: int
    read_to: int | None = None
