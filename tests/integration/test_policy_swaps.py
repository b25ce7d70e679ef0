"""Several processes change at once which policy is served."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recommendation_service.core.errors import PolicyError
from recommendation_service.policies.store import PolicyStore
from tests.unit.policies.test_policy_store import deed, publish


def promote_expecting(folder: Path, version: str, expected: str, start: Any, done: Any) -> None:
    start.wait()
    try:
        PolicyStore(folder, 10).promote(version, deed(9, who=version), expected)
        done.put(version)
    except PolicyError:
        done.put(None)


def test_of_processes_that_swap_at_once_one_does(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies", keep=10)
    others = [publish(store, number, aside=True) for number in range(4)]
    first = publish(store, 5)
    context = get_context("spawn")
    start, done = context.Event(), context.Queue()
    processes = [
        context.Process(target=promote_expecting, args=(store.folder, version, first, start, done))
        for version in others
    ]
    for process in processes:
        process.start()
    start.set()

    swapped = [done.get(timeout=60) for _ in processes]

    for process in processes:
        process.join()
    winners = [version for version in swapped if version is not None]
    assert winners == [store.current()]
    assert [entry.who for entry in store.journal.entries() if entry.did == "promote"] == winners
