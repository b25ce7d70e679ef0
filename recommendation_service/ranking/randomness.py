"""The single source of randomness of a feed: SplitMix64, seeded by (seed, user, request).

A generator of NumPy costs more to make than a whole feed; this one is one word of state.
Source: Steele, Lea & Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
"""

import numpy as np
import numpy.typing as npt

from recommendation_service.ranking.compiled import inlined

State = npt.NDArray[np.uint64]


@inlined
def next_word(state: State) -> np.uint64:
    """Advance ``state`` (shape (1,)) and give 64 evenly distributed bits."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return mixed(state[0])


@inlined
def mixed(z: np.uint64) -> np.uint64:
    """Another number for each, of which each bit depends on all of its bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(z ^ (z >> np.uint64(31)))


@inlined
def uniform(state: State) -> float:
    """A number in [0, 1) with 53 random bits."""
    return float(next_word(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@inlined
def below(state: State, n: int) -> int:
    """An integer in [0, n); the bias of the multiplication, n/2⁵³, is below what any log could show."""
    return int(uniform(state) * n)
