"""What a user saw more than some feeds ago, as a feed of one who scrolls on takes it: by a summary.

Of who scrolls, a feed changes the last entries of what is remembered (seen.py) and no others: the earlier ones have
settled. To read, judge, look up and write them again each time took a sixth of a user's sixtieth feed. A summary has
all that a feed asks of them: the rows of the items that they keep away, in one catalog, and the latest that the user
acted on, as they are. It holds until the first of them would no longer keep its item away.

A feed by a summary is that of all the entries (property test), or there is none: what needs to know more of them, as
where something seen has to come back, takes all.
"""

import struct
from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Int32, Int64
from recommendation_service.model.kinds import MOST_KINDS

# Words of a summary: what names the catalog and the lifetimes that it is for; seconds since 1970 until when it holds,
# and of the latest entry; how many entries there are, how many of them are carried, and how many rows there are. Then,
# two to a word, how many of the first items of each kind's ordering are kept away; the carried entries; and the rows,
# two to a word: of what the user hid, -1 - row.
SOURCE, UNTIL, LATEST, ENTRIES, CARRIED, ROWS, HEADS = range(7)
FIRST_WORD = HEADS + (MOST_KINDS + 1) // 2
WORD_BYTES = 8
_HEAD = struct.Struct("<6q")
MOST_CARRIED = 16  # entries of what the user acted on


class SettledEntries(NamedTuple):
    """A summary, in a working memory."""

    words: Int64
    rows: Int32  # the same memory


def make_settled(entries: int) -> SettledEntries:
    """With room for the summary of so many."""
    words = np.zeros(FIRST_WORD + 2 * MOST_CARRIED + (entries + 1) // 2, np.int64)
    return SettledEntries(words, words.view(np.int32))


def summarised(summary: bytes, source: int, now: int) -> tuple[int, int]:
    """How many entries it is of, and how many of them are carried; no entries: it is not of that source, or does not
    hold, or is none, as a kernel takes its word for what it says of itself."""
    if len(summary) < _HEAD.size:
        return 0, 0
    of_source, until, latest, entries, carried, rows = _HEAD.unpack_from(summary)
    words = FIRST_WORD + 2 * carried + (rows + 1) // 2
    if of_source != source or not latest <= now < until:
        return 0, 0
    is_whole = 0 <= carried <= MOST_CARRIED and 0 <= rows <= entries and len(summary) == words * WORD_BYTES
    return (entries, carried) if is_whole else (0, 0)
