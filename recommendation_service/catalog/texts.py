"""The catalog's dictionary of ids that are text, by row: the way back from the numbers that all else has of them.

The other way is no look-up: a text's number is a hash (model/text_ids.py).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np

from recommendation_service.model.columns import Bytes, Int64


class Texts(NamedTuple):
    """n texts, one after the other; of a mapped version both arrays are views of its files."""

    offsets: Int64  # (n + 1,)
    blob: Bytes

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def at(self, row: int) -> str:
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        return bytes(self.blob[start:end]).decode("utf-8", "surrogatepass")

    def of_rows(self, rows: Iterable[int]) -> list[str]:
        return [self.at(row) for row in rows]
