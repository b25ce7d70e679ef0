"""What a feed could not hold because of its request or its user, as a decision keeps it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommendation_service.feed.withheld import pack_withheld, unpack_withheld
from recommendation_service.ranking.slate_withheld import WithheldMemory

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50, unique=True)


def found(keys: list[int]) -> WithheldMemory:
    """With room for more."""
    places = np.arange(len(keys) + 3)
    return WithheldMemory(np.array([*keys, 0, 0, 0], np.int64), places * 10**9, (places % 7 + 1).astype(np.uint8))


@given(KEYS)
def test_what_is_packed_is_unpacked(keys: list[int]) -> None:
    again = unpack_withheld(pack_withheld(found(keys), len(keys)))
    assert [again.of(key) for key in keys] == [(place % 7 + 1, place * 10**9) for place in range(len(keys))]
    assert again.keys.tolist() == sorted(keys)
    if 17 not in keys:
        assert again.of(17) is None


def test_what_older_releases_packed_is_unpacked() -> None:
    differences, when, why = np.array([-5, 8, 4]), np.array([10, 0, 300]), np.array([1, 5, 2], np.uint8)
    columns = b"".join(column.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes() for column in (differences, when))
    again = unpack_withheld(b"\x01" + zlib.compress(columns + why.tobytes()))
    assert [again.of(key) for key in (-5, 3, 7, 4)] == [(1, 10), (5, 0), (2, 300), None]


@pytest.mark.parametrize("packed", [b"", b"\x03" + zlib.compress(b""), b"\x02none", b"\x01" + zlib.compress(b"x" * 18)])
def test_what_is_none_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_withheld(packed)


def test_a_user_who_has_seen_much_takes_little() -> None:
    """In the order in which it was seen, 24 at a time."""
    draw = np.random.default_rng(1)
    keys = draw.choice(200_000, 1_000, replace=False) << 1
    when = 1_790_000_000 + np.sort(draw.integers(0, 30 * 86_400, 42)).repeat(24)[:1_000]
    assert len(pack_withheld(WithheldMemory(keys, when, np.ones(1_000, np.uint8)), 1_000)) < 3_500
