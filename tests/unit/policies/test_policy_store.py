"""Policy versions on disk: which one is served, who changed that, and what is never served."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommendation_service.core.errors import ConfigurationError, PolicyError
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.differences import changed_values, in_words, moves
from recommendation_service.policies.journal import Deed, Journal, entry_of
from recommendation_service.policies.policy import Learned, Policy, load_policy, parse_policy, read_policy_file
from recommendation_service.policies.store import POLICY, PolicyStore
from recommendation_service.versions.store import MANIFEST
from tests.support.policies import FEATURES

START = datetime(2026, 11, 29, 10, tzinfo=UTC)
SHIPPED = read_policy_file()


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "policies", keep=3)


def deed(number: int = 0, why: str = "to see", who: str = "ana@desk") -> Deed:
    return Deed(START + timedelta(minutes=number), who, why)


def renamed(name: str) -> bytes:
    """The shipped policy under another name."""
    return re.sub(rb'^version = ".*"', f'version = "{name}"'.encode(), SHIPPED, flags=re.M)


def learned(seed: int = 0) -> Learned:
    draw = np.random.default_rng(seed)
    G = draw.normal(size=(len(KINDS), FEATURES, FEATURES))
    return Learned(draw.normal(size=(len(KINDS), FEATURES)), np.eye(FEATURES) + G @ G.transpose(0, 2, 1))


def publish(store: PolicyStore, number: int, **options: Any) -> str:
    return store.publish(renamed(f"policy-{number}"), None, deed(number), **options)


def test_what_was_published_is_what_is_opened(store: PolicyStore) -> None:
    model = learned()

    version = store.publish(renamed("longer-memory"), model, deed())

    policy = store.open(version)
    assert policy.version == version == store.current()
    assert policy.file.version == "longer-memory"
    assert np.array_equal(policy.arrays.theta, model.theta)
    for kind in range(len(KINDS)):  # xᵀA⁻¹x = ‖R⁻¹x‖²
        x = np.arange(FEATURES) / FEATURES
        width = np.linalg.norm(x @ policy.arrays.precision_root[kind]) ** 2
        assert width == pytest.approx(x @ np.linalg.inv(model.A[kind]) @ x, rel=1e-9)
    assert store.verify(version) == []


def test_arrays_of_every_policy_are_of_one_type_and_layout(store: PolicyStore) -> None:
    """To Numba an array that is read-only or laid out otherwise is another type: kernels would be compiled anew."""
    from numba import typeof

    model = learned()
    odd = Learned(np.asfortranarray(model.theta.astype(np.float32)), np.asfortranarray(model.A))

    policy = store.open(store.publish(SHIPPED, odd, deed()))

    assert typeof(policy.arrays) == typeof(load_policy().arrays)


def test_a_file_that_is_wrong_is_not_published_and_every_problem_is_named(store: PolicyStore) -> None:
    wrong = SHIPPED.replace(b"creator_window = ", b"creator_window = -").replace(b"[exploration]", b"[exploraton]")

    with pytest.raises(ConfigurationError) as caught:
        store.publish(wrong, None, deed())

    assert {"creator_window", "exploration", "exploraton"} <= set(re.findall(r"\w+", str(caught.value)))
    assert store.versions() == []


def test_temperatures_that_were_learned_are_drawn_by_and_told(store: PolicyStore) -> None:
    before = store.open(publish(store, 1))
    version = store.publish(SHIPPED, learned()._replace(temperature=np.full(len(KINDS), 0.1)), deed(2), aside=True)
    after = store.open(version)
    assert after.arrays.temperature.tolist() == [0.1] * len(KINDS)
    assert after.pools_digest == before.pools_digest
    told = {value.name: (value.before, value.after) for value in changed_values(before, after)}
    assert told["kinds.AU.temperature"] == (0.15, 0.1)
    assert store.open(store.publish(SHIPPED, learned(), deed(3), aside=True)).arrays.temperature.tolist() == (
        before.arrays.temperature.tolist()
    )


def test_what_one_version_has_otherwise_than_another_is_said_the_most_moved_first(store: PolicyStore) -> None:
    model = learned()
    before = store.open(store.publish(SHIPPED, model, deed(1)))
    theta = model.theta.copy()
    theta[1, 6] += 0.5
    theta[0, 2] -= 2.0
    theta[3, 3] += 0.001
    after = store.open(store.publish(SHIPPED, model._replace(theta=theta), deed(2)))
    assert in_words(moves(before, after), 4) == "VMP quality -2.00, AU attribute_match +0.50"
    assert in_words(moves(before, after), 1) == "VMP quality -2.00, and 1 more"
    assert in_words(moves(before, before), 4) == "no weight moved"
    assert changed_values(before, after) == []


def asymmetric(A: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    changed = A.copy()
    changed[2, 0, 1] += 1
    return changed


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda model: model._replace(theta=model.theta[:-1]), r"theta must be numbers of shape \(5, 20\)"),
        (lambda model: model._replace(theta=model.theta.astype(str)), r"theta must be numbers"),
        (lambda model: model._replace(theta=model.theta * np.nan), r"theta must be finite, but 100 numbers are not"),
        (lambda model: model._replace(A=model.A[:, :-1]), r"A must be numbers of shape \(5, 20, 20\)"),
        (lambda model: model._replace(A=asymmetric(model.A)), r"A of NU must be symmetric"),
        (lambda model: model._replace(temperature=np.zeros(len(KINDS))), r"temperature must be more than 0"),
        (lambda model: model._replace(temperature=np.ones(2)), r"temperature must be numbers of shape \(5,\)"),
        (lambda model: model._replace(A=-model.A), r"A of VMP must be positive definite; A of AU"),
    ],
)
def test_what_was_learned_wrongly_is_not_published(store: PolicyStore, wrong: Any, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        store.publish(SHIPPED, wrong(learned()), deed())

    assert store.versions() == []


# Which one is served.


def test_a_version_that_is_published_aside_is_kept_and_not_served(store: PolicyStore) -> None:
    first = publish(store, 1)

    second = publish(store, 2, aside=True)

    assert store.current() == first
    store.promote(second, deed(3))
    assert store.current() == second


def test_the_policy_that_was_served_before_the_first_version_can_be_gone_back_to(store: PolicyStore) -> None:
    publish(store, 1, until_now=SHIPPED)

    store.rollback(deed(2))

    current = store.current()
    assert current is not None
    assert store.open(current).file == load_policy().file


def test_going_back_twice_goes_back_by_two(store: PolicyStore) -> None:
    first, second, third = (publish(store, number) for number in (1, 2, 3))
    assert store.current() == third

    assert store.rollback(deed(4)) == second
    assert store.rollback(deed(5)) == first
    with pytest.raises(PolicyError, match="no version to go back to"):
        store.rollback(deed(6))
    assert store.current() == first


def test_a_pinned_version_is_served_whatever_is_published(store: PolicyStore) -> None:
    first, second = publish(store, 1), publish(store, 2)

    store.pin(first, deed(3, why="the fair"))
    third = publish(store, 4)

    assert store.current() == store.pinned() == first
    for change in (lambda: store.promote(second, deed(5)), lambda: store.rollback(deed(5))):
        with pytest.raises(PolicyError, match=f"{first} was pinned by ana@desk at 2026-11-29T10:03.*: the fair"):
            change()
    assert store.unpin(deed(6)) == first
    assert (store.current(), store.pinned()) == (first, None)
    store.promote(third, deed(7))
    assert store.current() == third


def test_another_version_may_be_pinned_instead(store: PolicyStore) -> None:
    first, second = publish(store, 1), publish(store, 2)
    store.pin(first, deed(3))

    store.pin(second, deed(4))

    assert store.current() == second


def test_versions_in_use_are_kept_beyond_the_number(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies", keep=1)
    shadow = publish(store, 1)
    store.shadow([shadow], deed())
    before, pinned = publish(store, 2), publish(store, 3)
    store.pin(pinned, deed(3))

    newest = [publish(store, number) for number in (4, 5, 6)][-1]

    assert set(store.versions()) == {shadow, before, pinned, newest}
    store.unpin(deed(7))
    assert store.rollback(deed(8)) == before


def test_what_was_published_aside_since_is_the_newest_and_stays_longest(store: PolicyStore) -> None:
    served = publish(store, 1)

    aside = [publish(store, number, aside=True) for number in range(2, 7)]

    assert store.current() == served
    assert store.versions() == [served, *aside[-3:]]


def test_shadows_are_versions_that_are_there_and_four_at_most(store: PolicyStore) -> None:
    version = publish(store, 1)

    store.shadow([version], deed())
    assert store.shadows() == (version,)
    with pytest.raises(PolicyError, match="At most 4"):
        store.shadow([version] * 5, deed())
    with pytest.raises(PolicyError, match="version 7 does not exist"):
        store.shadow(["7"], deed())
    assert store.shadows() == (version,)
    store.shadow([], deed())
    assert store.shadows() == ()


# Compare and swap.


def test_nothing_is_changed_where_another_version_is_current_than_was_expected(store: PolicyStore) -> None:
    first = publish(store, 1, expect="none")
    second = publish(store, 2, expect=first)
    changes: list[Any] = [
        lambda: publish(store, 3, expect=first),
        lambda: store.promote(first, deed(3), first),
        lambda: store.rollback(deed(3), "none"),
        lambda: store.pin(first, deed(3), first),
        lambda: store.unpin(deed(3), first),
    ]
    journal = store.journal.entries()

    for change in changes:
        with pytest.raises(PolicyError, match=f"Nothing was changed: the current version is {second}, not"):
            change()

    assert store.current() == second
    assert store.versions() == [first, second]
    assert store.journal.entries() == journal


# The journal.


def test_who_changed_what_when_and_why_is_written_down(store: PolicyStore) -> None:
    first = publish(store, 1)
    second = publish(store, 2)
    store.rollback(deed(3, "worse", "eva@phone"))
    store.pin(first, deed(4, "calm ¡ya!"))
    store.unpin(deed(5))

    entries = store.journal.entries()

    assert [(entry.did, entry.version, entry.before) for entry in entries] == [
        ("publish", first, None),
        ("publish", second, first),
        ("rollback", first, second),
        ("pin", first, first),
        ("unpin", first, first),
    ]
    assert (entries[2].who, entries[2].why, entries[2].when) == ("eva@phone", "worse", "2026-11-29T10:03:00.000+00:00")
    assert entries[3].why == "calm ¡ya!"


def test_a_line_that_was_cut_takes_no_other_with_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(entry_of(deed(1), "publish", "a", None))
    journal.add(entry_of(deed(2), "publish", "b", "a"))
    os.truncate(tmp_path / "journal.jsonl", (tmp_path / "journal.jsonl").stat().st_size - 9)

    journal.add(entry_of(deed(3), "publish", "c", "b"))

    assert [entry.version for entry in journal.entries()] == ["a", "c"]


def test_a_change_that_cannot_be_written_down_is_not_made(store: PolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = publish(store, 1), publish(store, 2, aside=True)
    lines = (store.folder / "journal.jsonl").read_bytes()
    write = os.write

    def half(descriptor: int, content: bytes) -> int:
        return write(descriptor, content[: len(content) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(PolicyError, match=r"could not be written .*No space left"):
        store.promote(second, deed(3))

    assert store.current() == first
    assert (store.folder / "journal.jsonl").read_bytes() == lines


# Damage.


@pytest.mark.parametrize("name", [POLICY, "theta.npy", "A.npy", MANIFEST])
def test_a_damaged_version_is_refused(store: PolicyStore, name: str) -> None:
    version = store.publish(SHIPPED, learned(), deed())
    path = store.folder / version / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(PolicyError, match=f"{version} is damaged: {name}"):
        store.open(version)
    assert len(store.verify(version)) == 1
    with pytest.raises(PolicyError, match="is damaged"):
        store.pin(version, deed())
    assert store.pinned() is None


def test_a_version_of_another_layout_kinds_or_features_is_refused(store: PolicyStore) -> None:
    version = publish(store, 1)
    manifest = json.loads((store.folder / version / MANIFEST).read_bytes())
    found = {}
    for what, value in {"layout": 2, "kinds": [*KINDS, "NEW"], "features": ["engagement"]}.items():
        content = json.dumps(manifest | {what: value}).encode()
        other = f"{version.rpartition('-')[0]}-{hashlib.sha256(content).hexdigest()[:16]}"
        (store.folder / other).mkdir()
        (store.folder / other / POLICY).write_bytes((store.folder / version / POLICY).read_bytes())
        (store.folder / other / MANIFEST).write_bytes(content)
        with pytest.raises(PolicyError) as caught:
            store.promote(other, deed())
        found[what] = str(caught.value).partition(other)[2]

    assert found["layout"] == " is of another layout than 1"
    assert found["kinds"].startswith(" cannot be served: its kinds are ['VMP', 'AU', 'NU', 'FW', 'FLOW', 'NEW'], and")
    assert found["features"].startswith(" cannot be served: its features are ['engagement'], and this program's [")
    assert store.current() == version


def test_a_reader_sees_a_whole_version_at_every_moment(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies", keep=100)
    publish(store, 0)
    done, opened = threading.Event(), set()
    problems: list[str] = []

    def read() -> None:
        while not done.is_set():
            current = store.current()
            assert current is not None
            opened.add(current)
            problems.extend(store.verify(current))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 20):
            publish(store, number)
            if number % 5 == 0:
                store.pin(store.versions()[0], deed())
                store.unpin(deed())
    finally:
        done.set()
        reader.join()

    assert problems == []
    assert len(opened) > 1


def test_a_version_may_add_features_and_what_was_learned_must_be_of_them(store: PolicyStore) -> None:
    content = renamed("added") + b'\n[[added_features]]\nname = "age_in_months"\ncolumn = "age_days"\nscale = 30.0\n'
    policy = store.open(store.publish(content, None, deed(1)))
    assert policy.feature_names[20:] == ("age_in_months",)
    assert policy.arrays.theta.shape == (len(KINDS), FEATURES + 1)
    assert policy.catalog_digest != Policy(parse_policy(SHIPPED, "policy file")).catalog_digest
    with pytest.raises(PolicyError, match=r"theta must be numbers of shape \(5, 21\)"):
        store.publish(content, learned(), deed(2))
