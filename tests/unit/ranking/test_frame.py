"""What a kernel reads of a frame is what Python put there, each piece in its place."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recommendation_service.policies.policy import load_policy
from recommendation_service.ranking.frame import PARTS, Frame
from recommendation_service.ranking.working_memory import make_working_memory
from tests.support.catalogs import Video, World, make_catalog


def pieces(prefix: str, part: Any) -> dict[str, Any]:
    """The arrays and numbers of a part, by how a kernel names them."""
    found: dict[str, Any] = {}
    for name in part._fields:
        value = getattr(part, name)
        found |= pieces(f"{prefix}.{name}", value) if hasattr(value, "_fields") else {f"{prefix}.{name}": value}
    return found


def test_a_kernel_finds_every_piece_in_its_place() -> None:
    policy = load_policy()
    catalog = make_catalog(World([Video(1, 1), Video(2, 2), Video(3, 1)]), policy)
    rows = policy.file.rows_of_kinds(catalog.rows_of_type)
    frame = Frame(catalog.arrays, policy.arrays, make_working_memory(catalog.arrays, policy.arrays, rows))
    expected: dict[str, Any] = {}
    for part in PARTS:
        every = list(pieces(f"frame.{part}", getattr(frame, part)).items())
        # To compile all of them takes a minute; what is read after the last one is in its place, too.
        expected |= dict([*every[:1], *every[7::11], *every[-2:]])
    lines = ["def look(frame, found):"]
    for place, (name, value) in enumerate(expected.items()):
        if isinstance(value, np.ndarray):
            lines += [f"    found[{place}, 0], found[{place}, 1] = int64({name}.ctypes.data), {name}.size"]
        else:
            lines += [f"    found[{place}, 0], found[{place}, 1] = {name}, -1"]
    namespace: dict[str, Any] = {"int64": np.int64}
    exec("\n".join(lines), namespace)  # noqa: S102
    found = np.zeros((len(expected), 2), np.int64)
    # Of what Numba adds to a function, only what Python calls: the rest takes eighty arrays to pieces as well.
    numba.njit(_nrt=False, no_cfunc_wrapper=True)(namespace["look"])(frame, found)
    told = [(v.ctypes.data, v.size) if isinstance(v, np.ndarray) else (v, -1) for v in expected.values()]
    assert dict(zip(expected, map(tuple, found.tolist()), strict=True)) == dict(zip(expected, told, strict=True))
    assert -1 in found[:, 1], "a number, too"
