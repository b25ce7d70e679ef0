"""Orders of all items that are nobody's in particular: the most popular first, the latest first.

Computed when a version is written, so that a list by type and filter only walks one of them.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.model.columns import CatalogArrays, Int32
from recommendation_service.model.features import FEATURE_NAMES

_POPULARITY = FEATURE_NAMES.index("popularity")


class ListOrders(NamedTuple):
    """(M,) rows of the catalog, of all types."""

    popular: Int32
    latest: Int32


def list_orders(arrays: CatalogArrays) -> ListOrders:
    """Popular is what is taken lately, where enough is taken for that to be known; then what was in all, then what is
    newer."""
    newer = -arrays.created
    popular = np.lexsort((newer, -arrays.features[:, _POPULARITY], -arrays.trending))
    return ListOrders(popular.astype(np.int32), np.argsort(newer, kind="stable").astype(np.int32))
