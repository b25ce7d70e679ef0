"""Users and their profiles.

What several tables must agree on (who is recent, who creates, who likes what, who lives where) is either a
small array here or a hash of the user's id, so that 198,000 users, or a thousand times that, are never in
memory at once.
"""

import functools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from faker import Faker

from recommendation_service.demo.dirt import SPOILED_LISTS, ZERO_DATE, Dirt, spoil, spoiled_name
from recommendation_service.demo.draws import (
    BATCH_ROWS,
    DAY,
    Flags,
    Integers,
    batch_sizes,
    generator,
    hashed_unit,
    timestamps,
)
from recommendation_service.demo.loading import Batch, Row, numbered
from recommendation_service.demo.places import cities_of, countries_of, is_mexican
from recommendation_service.demo.sizes import Sizes
from recommendation_service.demo.vocabulary import json_word, vocabulary
from recommendation_service.demo.words import Words

# Users outside the 90-day window stay this far outside it, recent ones this far inside: a demo that is a day
# old still has the counts it was made with.
OUTSIDE_WINDOW = 92 * DAY
INSIDE_WINDOW = 88 * DAY
_OLDEST = 6 * 365 * DAY
_TASTE, _SECOND_TASTE, _HAS_SECOND, _UPDATED, _DELETED, _PROFILE, _JITTER = range(1, 8)
_OLD_PROFILE_SHARE = 0.15
_DELETED_SHARE = 0.03
_FEW = 3_000


@dataclass(frozen=True, slots=True)
class Population:
    """Ids from 1 to `sizes.users`, in the order of their registration. All arrays are sorted."""

    seed: int
    now: int
    sizes: Sizes
    recent: Integers
    creators: Integers
    deleted_creators: Integers
    deleted: Integers

    @property
    def registered_in_window(self) -> int:
        """The newest ids: recent users who are new rather than updated, and the deleted among them."""
        return round(0.6 * self.sizes.recent_users) + self.sizes.deleted_recent_users

    def created(self, ids: Integers) -> Integers:
        """When each user registered: evenly over six years, faster in the last 90 days."""
        new, old = self.registered_in_window, self.sizes.users - self.registered_in_window
        place = ids - 0.5 + 0.5 * hashed_unit(ids, self._salt(_JITTER))
        age_of_old = _OLDEST - (_OLDEST - OUTSIDE_WINDOW) * place / old
        age_of_new = INSIDE_WINDOW * (1 - (place - old) / new) + 60
        return self.now - np.where(ids > old, age_of_new, age_of_old).astype(np.int64)

    def updated(self, ids: Integers) -> Integers:
        created = self.created(ids)
        share = hashed_unit(ids, self._salt(_UPDATED))
        recently = self.now - (share * INSIDE_WINDOW).astype(np.int64)
        is_old = ids <= self.sizes.users - self.registered_in_window
        last = np.where(is_old, self.now - OUTSIDE_WINDOW, self.now)
        some_time = created + (share * (last - created)).astype(np.int64)
        return np.where(is_old & contains(self.recent, ids), recently, some_time)

    def is_deleted(self, ids: Integers) -> Flags:
        spared = contains(self.recent, ids) | contains(self.creators, ids)
        return contains(self.deleted, ids) | (~spared & (hashed_unit(ids, self._salt(_DELETED)) < _DELETED_SHARE))

    def has_profile(self, ids: Integers) -> Flags:
        return contains(self.recent, ids) | (hashed_unit(ids, self._salt(_PROFILE)) < _OLD_PROFILE_SHARE)

    def tastes(self, ids: Integers) -> Integers:
        """(n, 2) fields: the one a user likes most, and a second one or -1."""
        running = np.cumsum([field.weight for field in vocabulary().fields])
        first, second = (
            np.searchsorted(running, hashed_unit(ids, self._salt(salt)) * running[-1], side="right")
            for salt in (_TASTE, _SECOND_TASTE)
        )
        only_one = (hashed_unit(ids, self._salt(_HAS_SECOND)) < 0.5) | (first == second)
        return np.stack([first, np.where(only_one, -1, second)], axis=1).astype(np.int64)

    def absent_ids(self, n: int) -> list[int]:
        """Ids that no user has, as rows of removed users leave them behind."""
        return list(range(self.sizes.users + 5_001, self.sizes.users + 5_001 + n))

    def batches(self) -> Iterator[tuple[int, Integers]]:
        for batch, rows in batch_sizes(self.sizes.users):
            yield batch, batch * BATCH_ROWS + np.arange(1, rows + 1)

    def _salt(self, purpose: int) -> int:
        return self.seed * 64 + purpose


def contains(sorted_ids: Integers, ids: Integers) -> Flags:
    places = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    found: Flags = sorted_ids[places] == ids
    return found


def populate(seed: int, now: int, sizes: Sizes) -> Population:
    """Decide who is recent, who creates and who is deleted."""
    rng = generator(seed, "population")
    new = round(0.6 * sizes.recent_users) + sizes.deleted_recent_users
    old = sizes.users - new
    newest = rng.permutation(np.arange(old + 1, sizes.users + 1))
    deleted_recent, new_recent = np.split(newest, [sizes.deleted_recent_users])
    shuffled_old = rng.permutation(old)[: sizes.recent_users + sizes.creators + sizes.deleted_creators] + 1
    updated_recent = shuffled_old[: sizes.recent_users - len(new_recent)]
    other_old = shuffled_old[len(updated_recent) :]
    recent = np.sort(np.concatenate([new_recent, updated_recent]))
    # Few creators are new: their videos can only be new too, and most videos should not be.
    recent_creators = np.concatenate(
        [
            rng.choice(new_recent, round(0.15 * sizes.creators), replace=False),
            rng.choice(updated_recent, round(0.4 * sizes.creators), replace=False),
        ]
    )
    old_creators, rest = np.split(other_old, [sizes.creators - len(recent_creators)])
    deleted_creators = np.sort(rest[: sizes.deleted_creators])
    return Population(
        seed=seed,
        now=now,
        sizes=sizes,
        recent=recent,
        creators=np.sort(np.concatenate([recent_creators, old_creators])),
        deleted_creators=deleted_creators,
        deleted=np.sort(np.concatenate([deleted_recent, deleted_creators])),
    )


class _Pool(NamedTuple):
    female: list[str]
    male: list[str]
    surnames: list[str]


@functools.cache
def _pool(locale: str, seed: int) -> _Pool:
    """Faker is slow: it fills a pool of a few thousand once, and the pool is combined."""
    fake = Faker(locale)
    fake.seed_instance(seed)
    # Sorted: a set of strings has another order in every process.
    return _Pool(
        sorted({fake.first_name_female() for _ in range(_FEW)}),
        sorted({fake.first_name_male() for _ in range(_FEW)}),
        sorted({fake.last_name() for _ in range(_FEW)}),
    )


class Names:
    """Names by country."""

    def __init__(self, seed: int) -> None:
        self._pools = {mexican: _pool(locale, seed) for mexican, locale in ((False, "es_CO"), (True, "es_MX"))}

    def draw(self, rng: np.random.Generator, countries: list[str | None]) -> list[tuple[str, str]]:
        """(given names, surnames) for each user."""
        picks = rng.random((4, len(countries))).tolist()
        chances = rng.random((3, len(countries))).tolist()
        drawn = []
        for country, a, b, c, d, gender, second_given, second_surname in zip(countries, *picks, *chances, strict=True):
            female, male, surnames = self._pools[is_mexican(country)]
            given = female if gender < 0.5 else male
            first = given[int(a * len(given))]
            last = surnames[int(c * len(surnames))]
            if second_given < 0.3:
                first = f"{first} {given[int(b * len(given))]}"
            if second_surname < 0.7:
                last = f"{last} {surnames[int(d * len(surnames))]}"
            drawn.append((first, last))
        return drawn


def user_rows(people: Population, dirt: Dirt) -> Iterator[Batch]:
    names = Names(people.seed)
    spoiled = _spoiled_users(people, dirt)
    for batch, ids in people.batches():
        rng = generator(people.seed, "users", batch)
        countries = countries_of(ids, people.seed)
        cities = [spelling for spelling, *_ in cities_of(ids, people.seed)]
        created, updated = people.created(ids), people.updated(ids)
        rows: Batch = [
            (
                user_id,
                f"{first} {last}",
                f"{_ascii(first)}.{_ascii(last)}{user_id}@example.com",
                city,
                country,
                c,
                u,
                d if gone else None,
            )
            for user_id, (first, last), city, country, c, u, gone, d in zip(
                ids.tolist(),
                names.draw(rng, countries),
                cities,
                countries,
                timestamps(created),
                timestamps(updated),
                people.is_deleted(ids).tolist(),
                timestamps(np.minimum(updated + DAY, people.now)),
                strict=True,
            )
        ]
        first_id = int(ids[0])
        for user_id in spoiled.keys() & set(ids.tolist()):
            row = rows[user_id - first_id]
            for column, kind in spoiled[user_id]:
                row = _spoil_user(row, column, kind, people.now)
            rows[user_id - first_id] = row
        yield rows


def _spoiled_users(people: Population, dirt: Dirt) -> dict[int, list[tuple[str, str]]]:
    rng, amounts = generator(people.seed, "users dirt"), dirt.of_table("users")
    spoiled: dict[int, list[tuple[str, str]]] = {}
    # Bad names are those of creators, so that they come out in feeds.
    for user_id, kind in spoil(rng, amounts, "name", people.creators):
        spoiled.setdefault(user_id, []).append(("name", kind))
    # Either date alone must keep such a user recent, so nobody gets two bad ones.
    old = people.sizes.users - people.registered_in_window
    updated_only, registered = people.recent[people.recent <= old], people.recent[people.recent > old]
    for column, ids in (("created_at", updated_only), ("updated_at", registered)):
        for user_id, kind in spoil(rng, amounts, column, ids):
            spoiled.setdefault(user_id, []).append((column, kind))
    return spoiled


def _spoil_user(row: Row, column: str, kind: str, now: int) -> Row:
    user_id, name, email, city, country, created, updated, deleted = row
    future = timestamps(np.array([now + 400 * DAY]))[0]
    match column:
        case "name":
            name = spoiled_name(kind, str(name))
        case "created_at":
            created = ZERO_DATE if kind == "zero_date" else future
        case _:
            updated = ZERO_DATE
    return (user_id, name, email, city, country, created, updated, deleted)


def _ascii(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.lower().replace(" ", "."))
    return decomposed.encode("ascii", "ignore").decode()


def profile_rows(people: Population, words: Words, dirt: Dirt) -> Iterator[Batch]:
    return numbered(_profile_columns(people, words, dirt))


def _profile_columns(people: Population, words: Words, dirt: Dirt) -> Iterator[list[list[Any]]]:
    spoiled = _spoiled_profiles(people, dirt)
    talents = [f"[{json_word(word)}]" for word in vocabulary().talent_types]
    for batch, everyone in people.batches():
        ids = everyone[people.has_profile(everyone)]
        n, rng = len(ids), generator(people.seed, "profiles", batch)
        first, second = people.tastes(ids).T
        columns: list[list[Any]] = [
            words.skills.json_lists(rng, first, second, least=3, most=5),
            words.languages.json_lists(rng, n, least=1, most=3),
            words.tools.json_lists(rng, first, second, least=1, most=3, empty_share=0.1),
            words.knowledges.json_lists(rng, first, second, least=1, most=3, empty_share=0.1),
            words.hobbies.json_lists(rng, n, least=0, most=4),
            [talents[index] for index in rng.integers(0, len(talents), n).tolist()],
            words.objectives.json_lists(rng, first, second, least=1, most=2, empty_share=0.2),
        ]
        for place, user_id in enumerate(ids.tolist()):
            for column, kind in spoiled.get(user_id, ()):
                columns[column][place] = SPOILED_LISTS[kind]
        yield [ids.tolist(), *columns]
    orphans = dirt.profiles_user_id_orphaned
    yield [people.absent_ids(orphans), ['["Python"]'] * orphans, *[["[]"] * orphans] * 6]


_PROFILE_LISTS = ("skills", "languages", "tools", "knowledge")


def _spoiled_profiles(people: Population, dirt: Dirt) -> dict[int, list[tuple[int, str]]]:
    """Recent user to (place of the list, kind): profiles of others are never read."""
    rng, amounts = generator(people.seed, "profiles dirt"), dirt.of_table("profiles")
    spoiled: dict[int, list[tuple[int, str]]] = {}
    for place, column in enumerate(_PROFILE_LISTS):
        for user_id, kind in spoil(rng, amounts, column, people.recent):
            spoiled.setdefault(user_id, []).append((place, kind))
    return spoiled
