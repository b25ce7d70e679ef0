"""What a feed is asked for, as the kernels read it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ANONYMOUS_ROW = -1


class RankingRequest(NamedTuple):
    user_row: int  # the user's row in the catalog; -1 for anonymous and unknown users
    size: int  # 1 to 100
    endpoint: int  # the feed's place in the policy's pattern
    seed: int  # of all randomness in this feed, 63 bits
    excluded: npt.NDArray[np.int64]  # item numbers, of either type, that must not come back
    now: int = 0  # seconds since 1970
    session: int = 0  # number of the session, see seen.py; 0 for none
    # How much of the working memory's arrays holds: what the service remembers of the user, ...
    seen: int = 0
    # ... and, of a user who is not in the catalog, what the operator's tables say.
    history: int = 0
    network: int = 0
    tokens: int = 0
    connections: int = 0
    is_settled: bool = False  # a summary has what else is remembered, and the first of the ``seen`` entries, settled.py
