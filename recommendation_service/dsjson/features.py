"""Features of a log as a vector for each action: what the action has, alone and together with what its context has.

Their names are hashed into columns and signs, so a log may have any number of them (Weinberger et al. 2009, feature
hashing). A number is divided by the largest of its name so far, and each action's vector has length 1: an age of 31
weighs no more than a word.
"""

import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from recommendation_service.dsjson.decision import Features

Floats = npt.NDArray[np.float64]

COLUMNS = 256
# Of one context or one action; what is beyond is left out, as pairs are as many as their product.
MOST_FEATURES = 200
_DEEPEST = 20
_SCALES = 1 << 16
_ALWAYS = (1, 1.0)  # pairs with it are the action's own features
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Hashed:
    """Of one log: it remembers how large numbers were."""

    def __init__(self) -> None:
        self._largest = np.ones(_SCALES)

    def vectors(self, actions: Sequence[Features], contexts: Sequence[Features]) -> Floats:
        """(actions, COLUMNS), of length 1, or 0 where an action has no features."""
        context = [_ALWAYS, *(each for part in contexts for each in _listed(part))]
        own = [_listed(action) for action in actions]
        owner = np.repeat(np.arange(len(own)), [len(features) for features in own])
        names, values = self._scaled([each for features in own for each in features])
        others, amounts = self._scaled(context[: MOST_FEATURES + 1])
        pairs = (names[:, None] * _MIX ^ others) * _MIX
        columns = (pairs >> np.uint64(32)).astype(np.int64) % COLUMNS
        signs = np.where(pairs >> np.uint64(63), -1.0, 1.0)
        places = owner[:, None] * COLUMNS + columns
        weights = signs * values[:, None] * amounts
        sums = np.bincount(places.ravel(), weights.ravel(), len(own) * COLUMNS).astype(np.float64, copy=False)
        X = sums.reshape(len(own), COLUMNS)
        lengths = np.linalg.norm(X, axis=1, keepdims=True)
        X[lengths[:, 0] > 0] /= lengths[lengths > 0][:, None]
        return X

    def _scaled(self, features: list[tuple[int, float]]) -> tuple[npt.NDArray[np.uint64], Floats]:
        names = np.array([name for name, _ in features], np.uint64)
        values = np.array([value for _, value in features], np.float64)
        places = (names % _SCALES).astype(np.int64)
        np.maximum.at(self._largest, places, np.abs(values))
        return names, values / self._largest[places]


def _listed(features: Features) -> list[tuple[int, float]]:
    return [(_hash(name), value) for name, value in _flat(features, "", _DEEPEST)][:MOST_FEATURES]


def _flat(features: Features, namespace: str, deepest: int) -> Iterator[tuple[str, float]]:
    """A name is that of the innermost object and the key, with the value where that is text. Numbers in a list are
    features by their place. false, null and 0 are nothing; so are keys that begin with _, but for words of ``_text``.
    """
    for key, value in features.items():
        if key == "_text" and isinstance(value, str):
            yield from ((f"{namespace}\0{word}", 1.0) for word in value.split())
        elif key.startswith("_"):
            continue
        elif isinstance(value, dict):
            if deepest:
                yield from _flat(value, key, deepest - 1)
        elif isinstance(value, list):
            yield from _of_list(value, key, deepest)
        else:
            yield from _of_value(f"{namespace}\0{key}", value)


def _of_list(values: list[Any], key: str, deepest: int) -> Iterator[tuple[str, float]]:
    for place, value in enumerate(values):
        if isinstance(value, dict):
            if deepest:
                yield from _flat(value, key, deepest - 1)
        elif not isinstance(value, list):
            yield from _of_value(f"{key}\0[{place}]", value)


def _of_value(name: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, str):
        yield f"{name}\0{value}", 1.0
    elif isinstance(value, int | float) and 0 < abs(value) < 1e100:
        yield name, float(value)


@lru_cache(maxsize=1 << 16)
def _hash(name: str) -> int:
    content = name.encode(errors="surrogatepass")
    return zlib.crc32(content) << 32 | zlib.crc32(content, 0x5BD1E995)
