"""Adding up without losing digits, so that the order of what is added does not matter."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def add_exactly(total: Floats, low: Floats, what: Floats) -> None:
    """``total`` + ``low`` += ``what``, in place; what ``total`` rounds away is kept in ``low``.

    Source: Knuth, The Art of Computer Programming 2, 4.2.2, theorem B (TwoSum).
    """
    before = total.copy()
    total += what
    back = total - before
    low += (before - (total - back)) + (what - back)
