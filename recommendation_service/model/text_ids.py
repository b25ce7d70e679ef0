"""Ids that are text (UUIDs, slugs) as the numbers that keys and columns have of them.

A text's number is a hash, so it is the same in every catalog, on every machine and for who is in no catalog: nothing
has to be looked up on the way in, and log, memory and Redis need no dictionary. The way back, from a number to the
text, is the catalog's dictionary. Two items of one type that share a number are told of by the build, which keeps the
first: of catalogs of a million items, one in 36,000 has such a pair.
"""

import hashlib

LONGEST_TEXT_ID = 191  # characters, as recs_events has room for

USER_BITS = 63
CREATOR_BITS = 61
ITEM_BITS = 54  # of the item types beside the first two, see item_keys.py


def number_of_text(text: str, bits: int) -> int:
    """From 1 to 2^bits - 1."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return max(1, int.from_bytes(digest, "big") >> (64 - bits))
