"""What the contract calls things."""

from typing import Literal

ItemType = Literal["resume", "challenge", "creator"]  # by their numbers
RESUME, CHALLENGE = range(2)

# By endpoint the field of an answer that has the items' ids, and the one type of items that it may hold.
IDS_FIELDS = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}
FEED_ITEMS = {"discover": "resume", "flow": "challenge"}
# By which names a build counts its items.
ITEM_COUNTS = ("videos", "challenges")
