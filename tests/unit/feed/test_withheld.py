"""What a feed could not hold because of its request or its user, as a decision keeps it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.feed.withheld import Withheld, pack_withheld, unpack_withheld

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50, unique=True).map(sorted)


@given(KEYS)
def test_what_is_packed_is_unpacked(keys: list[int]) -> None:
    count = len(keys)
    withheld = Withheld(np.array(keys, np.int64), np.arange(count) * 10**9, (np.arange(count) % 7 + 1).astype(np.uint8))
    again = unpack_withheld(pack_withheld(withheld))
    assert [again.of(key) for key in keys] == [(place % 7 + 1, place * 10**9) for place in range(count)]
    assert again.keys.tolist() == keys
    if 17 not in keys:
        assert again.of(17) is None


@pytest.mark.parametrize("packed", [b"", b"\x02" + zlib.compress(b""), b"\x01none", b"\x01" + zlib.compress(b"x" * 18)])
def test_what_is_none_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_withheld(packed)


def test_a_user_who_has_seen_much_takes_little() -> None:
    draw = np.random.default_rng(1)
    keys = np.sort(draw.choice(200_000, 500, replace=False)) << 1
    when = 1_790_000_000 + draw.integers(0, 30 * 86_400, 500)
    assert len(pack_withheld(Withheld(keys, when, draw.integers(1, 5, 500).astype(np.uint8)))) < 3_500
