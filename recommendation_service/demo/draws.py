"""Random draws in bulk, each the same for the same seed whatever is drawn beside it."""

import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]
Flags = NDArray[np.bool_]

DAY = 86_400
BATCH_ROWS = 20_000


def generator(seed: int, purpose: str, batch: int = 0) -> np.random.Generator:
    """One stream a purpose and batch, so that a change to one table leaves the others as they were."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), batch])


def batch_sizes(rows: int, size: int = BATCH_ROWS) -> Iterator[tuple[int, int]]:
    """(number of the batch, its rows) until all rows are spoken for."""
    for batch, start in enumerate(range(0, rows, size)):
        yield batch, min(size, rows - start)


def epoch_seconds(now: datetime | None) -> int:
    """Whole seconds; a time without a zone is taken as UTC."""
    moment = now or datetime.now(UTC)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def timestamps(seconds: Integers) -> list[str]:
    """'YYYY-MM-DD HH:MM:SS' in UTC: what SQLite stores, and what MariaDB and MySQL take."""
    if not seconds.size:
        return []
    text = np.datetime_as_string(seconds.astype("datetime64[s]"))
    text.view("U1").reshape(len(text), -1)[:, 10] = " "
    values: list[str] = text.tolist()
    return values


def hashed_unit(ids: Integers, salt: int) -> Reals:
    """A number in [0, 1) for each id (splitmix64): what belongs to a user without being stored anywhere."""
    x = ids.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def log_normal_weights(rng: np.random.Generator, n: int, sigma: float) -> Reals:
    """A long tail: the n quantiles of a log-normal in random order.

    Quantiles and not a sample, so that the share of the best tenth does not hang on the seed.
    """
    normal = NormalDist(sigma=sigma)
    quantiles = np.exp([normal.inv_cdf((rank + 0.5) / n) for rank in range(n)])
    return rng.permutation(quantiles)


def draw_index(rng: np.random.Generator, cumulative: Reals, n: int) -> Integers:
    """n indices with probability in proportion to the weights whose running sum is given."""
    places: Integers = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
    return places


def draw_subsets(rng: np.random.Generator, log_weights: Reals, n: int, k: int) -> Integers:
    """(n, k) indices, in a row no index twice: weighted draws without replacement by Gumbel keys."""
    keys: Reals = log_weights + rng.gumbel(size=(n, log_weights.shape[-1]))
    order: Integers = np.argsort(-keys, axis=1)
    return order[:, :k]
