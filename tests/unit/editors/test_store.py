"""What editors ruled stays: whatever ends the process, and whatever becomes of the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from recommendation_service.core.errors import Conflict
from recommendation_service.editors.rulings import Rulings
from recommendation_service.editors.store import BEFORE, FILE, HISTORY, NotKept, RulingsStore
from tests.unit.editors.test_rulings import pin, ruling


def held(store: RulingsStore) -> set[tuple[str, int | str]]:
    state, problem = store.read()
    assert problem is None
    return {(one.action, one.id) for one in state.held}


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A folder where the file cannot be put in its place, by root either."""
    aside = folder / f".{FILE}-{os.getpid()}"
    aside.mkdir()
    yield
    aside.rmdir()


def test_what_was_ruled_is_there_again_with_its_history(tmp_path: Path) -> None:
    store = RulingsStore(tmp_path / "editors")
    assert store.stamp() is None
    assert store.read() == (Rulings(), None)
    store.rule(pin())
    before = store.stamp()
    store.rule(ruling("takedown", 7))

    again = RulingsStore(tmp_path / "editors")
    assert before != again.stamp() == store.stamp()
    assert held(again) == {("pin", 812), ("takedown", 7)}
    assert [(one.number, one.ruling.action) for one in again.history()] == [(1, "pin"), (2, "takedown")]


def test_of_two_editors_who_saw_the_same_state_the_second_is_told(tmp_path: Path) -> None:
    store = RulingsStore(tmp_path)
    store.rule(pin(), expect=0)
    with pytest.raises(Conflict, match="by now there is state 1, and not 0"):
        store.rule(pin(7, 2), expect=0)
    store.rule(pin(7, 2), expect=1)
    with pytest.raises(Conflict, match="Place 2"):
        store.rule(pin(8, 2))
    assert held(store) == {("pin", 812), ("pin", 7)}
    assert len(store.history()) == 2, "what was refused is in no history"


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: RulingsStore(tmp_path).rule(ruling("takedown", n)), range(1, 31)))
    assert held(RulingsStore(tmp_path)) == {("takedown", n) for n in range(1, 31)}
    assert sorted(one.number for one in RulingsStore(tmp_path).history()) == list(range(1, 31))


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_again_of_the_one_before_and_the_history(tmp_path: Path, damage: bytes | None) -> None:
    store = RulingsStore(tmp_path)
    store.rule(pin())
    store.rule(ruling("takedown", 7))
    whole, file = store.read()[0], tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)

    state, problem = RulingsStore(tmp_path).read()
    assert problem is not None
    assert str(file) in problem
    assert (state.held, state.number) == (whole.held, whole.number)
    (tmp_path / BEFORE).write_bytes(b"nor this one")
    assert RulingsStore(tmp_path).read()[0].held == whole.held, "the history has all of it"
    store.rule(ruling("bury", 9))
    assert held(store) == {("pin", 812), ("takedown", 7), ("bury", 9)}


def test_lines_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    store = RulingsStore(tmp_path)
    store.rule(pin())
    with (tmp_path / HISTORY).open("ab") as file:
        file.write(b'{"number": 2, "ruli')
    store.rule(ruling("takedown", 7))
    assert [one.ruling.action for one in store.history()] == ["pin", "takedown"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_takes_nothing_changes_nothing(tmp_path: Path) -> None:
    store = RulingsStore(tmp_path)
    store.rule(pin())
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(NotKept, match="cannot be"):
            store.rule(ruling("takedown", 7))
        assert held(store) == {("pin", 812)}
    finally:
        tmp_path.chmod(0o700)


def test_what_cannot_be_put_in_its_place_is_in_no_history_either(tmp_path: Path) -> None:
    store = RulingsStore(tmp_path)
    store.rule(pin())
    with unwritable(tmp_path), pytest.raises(NotKept, match="cannot be written"):
        store.rule(ruling("takedown", 7))
    assert [one.ruling.action for one in store.history()] == ["pin"]
    (tmp_path / FILE).write_bytes(b"nonsense")
    assert [one.action for one in store.read()[0].held] == ["pin"], "nor in what is made again of it"


def test_a_folder_that_is_none_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "editors").write_text("a file")
    with pytest.raises(NotKept, match="cannot be used"):
        RulingsStore(tmp_path / "editors").rule(pin())
