"""Parts of kernels have no way in from Python, and say so: through Numba's own a call would end the process."""

import numpy as np
import pytest

from recommendation_service.ranking.compiled import compiled, inlined, part


@inlined
def doubled(number: int) -> int:
    return 2 * number


@part
def added(one: int, other: int) -> int:
    return doubled(one) + other


@compiled
def whole(number: int) -> int:
    return added(number, 1)


def test_a_part_works_within_a_kernel_and_is_refused_to_python() -> None:
    assert whole(3) == 7
    for call in (lambda: doubled(3), lambda: added(3, 1), lambda: doubled(np.int64(3))):
        with pytest.raises(TypeError, match="is a part of kernels: Python has no way in"):
            call()
    assert whole(4) == 9
