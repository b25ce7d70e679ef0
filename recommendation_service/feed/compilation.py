"""Compiling all kernels at once, on a catalog of nothing: at a first start, or when an image is built."""

import numpy as np

from recommendation_service.catalog.layout import COLUMNS, EMPTY, CatalogArrays
from recommendation_service.feed.stages import STAGES, rank
from recommendation_service.ranking.compiled import kernel_folder
from recommendation_service.ranking.places import find
from recommendation_service.ranking.policy import FEATURES, KINDS, load_policy
from recommendation_service.ranking.request import ANONYMOUS_ROW, RankingRequest
from recommendation_service.ranking.seen import merge_entries, remember_events
from recommendation_service.ranking.working_memory import make_working_memory


def kernels_are_compiled() -> bool:
    """Whether this machine already has the machine code of these very sources."""
    return any(kernel_folder().rglob("stages.rank-*.nbc"))


def compile_kernels() -> None:
    """Compile what is not yet compiled, and keep it in ``kernel_folder``."""
    arrays, policy = _empty_catalog(), load_policy().arrays
    memory = make_working_memory(arrays, policy)
    request = RankingRequest(ANONYMOUS_ROW, 1, 0, 0, np.zeros(0, np.int64))
    find(arrays.user_id, 1, 0, 0)
    for _, stage in STAGES:
        stage(arrays, policy, request, memory)
    rank(arrays, policy, request, memory)
    entries, keys = memory.seen_entries, np.zeros(1, np.int64)
    remember_events(
        entries,
        0,
        keys,
        np.ones(1, np.uint8),
        np.zeros(1, np.int32),
        np.zeros(1, np.uint8),
        0,
        memory.lifetimes,
        memory.live_sessions,
        memory.remembered,
    )
    merge_entries(entries[:1], entries[:1])


def _empty_catalog() -> CatalogArrays:
    """Columns without rows, read-only like those of a mapped catalog: the machine code is for that type."""
    columns = {}
    for name, (kind, dimensions) in COLUMNS.items():
        shape: tuple[int, ...] = (
            (0,) if dimensions == 1 else (0, {"features": FEATURES, "hand": len(KINDS)}.get(name, 14))
        )
        if name.endswith("_offsets"):
            shape = (len(KINDS) + 1,)
        columns[name] = np.zeros(shape, kind)
    columns["hash_key"], columns["hash_item"] = np.full(8, EMPTY, np.int64), np.zeros(8, np.int32)
    columns["token_kind"] = np.full(1, 255, np.uint8)
    for column in columns.values():
        column.flags.writeable = False
    return CatalogArrays(**columns, videos=0, creators=0, cities=1)
