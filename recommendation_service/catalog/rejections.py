"""Which rule kept a row of the tables out of a catalog: for people who miss an item.

A version has the keys of the rows that its build read and rejected, ascending, and beside each the number of its rule.
The names of the rules stand in the version's manifest, so that a release with other rules reads it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import Bytes, Int64

# In the order in which a row meets them: the first that it breaks is kept.
NO_CREATOR = "no_creator"  # what stands there is no number of a user
UNKNOWN_CREATOR = "unknown_creator"  # there is no such user
NO_TIME = "no_time"  # no date, a zero date, or one in the future
TOO_OLD = "too_old"
NO_VIDEO = "no_video"
BLACKLISTED = "blacklisted"
TEST_ROW = "test_row"
SUPERSEDED = "superseded"  # a newer one has the same video
RULES = (NO_CREATOR, UNKNOWN_CREATOR, NO_TIME, TOO_OLD, NO_VIDEO, BLACKLISTED, TEST_ROW, SUPERSEDED)


class Rejected(NamedTuple):
    """n rows."""

    keys: Int64  # (n,) ascending, see model/item_keys.py
    rules: Bytes  # (n,) places in ``names``
    names: Sequence[str]

    def rule_of(self, key: int) -> str | None:
        """None: it was not read, or was not rejected."""
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return None
        rule = int(self.rules[place])
        return self.names[rule] if rule < len(self.names) else None


def rejected(rule_of: Mapping[int, str]) -> Rejected:
    """``rule_of``: by key."""
    keys = sorted(rule_of)
    rules = [RULES.index(rule_of[key]) for key in keys]
    return Rejected(np.array(keys, np.int64), np.array(rules, np.uint8), RULES)
