"""The softmax numerators are exponentials: the kernel has its own, which the machine does several of at a time."""

import numba
import numpy as np
import numpy.typing as npt

from recommendation_service.ranking.linucb import exp_of_negative


@numba.njit
def _exp(x: npt.NDArray[np.float64], to: npt.NDArray[np.float64]) -> None:
    for i in range(len(x)):
        to[i] = exp_of_negative(x[i])


def exps(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found = np.zeros(len(x))
    _exp(x, found)
    return found


def test_an_exponential_is_right_to_two_units_in_the_last_place() -> None:
    draw = np.random.default_rng(1)
    x = -np.concatenate([draw.random(100_000) * width for width in (1e-9, 1.0, 40.0, 700.0)])
    expected = np.exp(x)
    assert (np.abs(exps(x) - expected) <= 2 * np.spacing(expected)).all()


def test_what_vanishes_is_zero_and_zero_is_one() -> None:
    assert exps(np.array([-700.5, -1e6, -1e300, -np.inf, 0.0, -0.0])).tolist() == [0.0] * 4 + [1.0] * 2
