"""Users: what each interacted with, is connected to, and says of itself, as compressed sparse rows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import Float32, Float64, Int32, Int64

UNTIMED = 0  # the time of what has none: it counts, and is older than all else


@dataclass
class Interactions:
    """One entry for each user and item: the latest time and the strongest weight."""

    user: Int64
    item: Int32  # index in the catalog
    weight: Float32
    when: Int64  # seconds since 1970
    read: int  # interactions read, before they were joined with the catalog


def each_once(user: Int64, item: Int64, weight: Float64, time: Float64, read: int) -> Interactions:
    """Of each user and item the latest time and the strongest weight; latest first within a user."""
    order = np.lexsort((-time, item, user))
    user, item, weight, time = user[order], item[order], weight[order], time[order]
    if len(user):
        first = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]) | (item[1:] != item[:-1])])
        weight = np.maximum.reduceat(weight, first)
        user, item, time = user[first], item[first], time[first]
        order = np.lexsort((item, -time, user))
        user, item, weight, time = user[order], item[order], weight[order], time[order]
    return Interactions(user, item.astype(np.int32), weight.astype(np.float32), time.astype(np.int64), read)


@dataclass
class People:
    """The user columns of the catalog layout."""

    user_id: Int64
    history_offsets: Int64
    network_offsets: Int64
    network_creators: Int32
    connections: Int32
    profile_offsets: Int64
    profile_tokens: Int32
    recent: int  # how many are recent
    connected: int  # connections read


def places(sorted_ids: Int64, numbers: Int64) -> npt.NDArray[np.int64]:
    """Index of each number in ``sorted_ids``; -1 for what is not there."""
    if len(sorted_ids) == 0:
        return np.full(len(numbers), -1, np.int64)
    found = np.minimum(np.searchsorted(sorted_ids, numbers), len(sorted_ids) - 1)
    return np.where(sorted_ids[found] == numbers, found, -1)
