"""Challenges ("flows"): eligible ones, every sort of ineligible one, and several with one video address."""

import unicodedata
from typing import Any

import numpy as np

from recommendation_service.demo.dirt import SPOILED_LISTS, SPOILED_TEXTS, ZERO_DATE, Dirt, spoil
from recommendation_service.demo.draws import DAY, generator, timestamps
from recommendation_service.demo.loading import Batch, numbered
from recommendation_service.demo.people import Population
from recommendation_service.demo.schema import challenges as table
from recommendation_service.demo.vocabulary import json_word, vocabulary

# Older challenges with the video address of an eligible one: the newest alone counts.
SHARED_ADDRESSES = 6

_INELIGIBLE = (
    "deleted",
    "draft",
    "without_video",
    "old",
    "test_name",
    "test_description",
    "test_video",
    "deleted_creator",
)
_SINGLE = ("orphaned", "zero_date", "future")
_TALENT_TYPES = ("innovators", "creators", "leaders", None)
_OBJECTIVES = ("hire", "innovate", "fund", "learn")


def challenge_rows(people: Population, dirt: Dirt) -> Batch:
    """Few enough, at any scale, to be made one by one and kept until they are sorted by time."""
    rng = generator(people.seed, "challenges")
    single = (
        dirt.challenges_user_id_orphaned,
        dirt.challenges_created_at_zero_date,
        dirt.challenges_created_at_future,
    )
    states = ["eligible"] * people.sizes.challenges
    states += [state for state in _INELIGIBLE for _ in range(people.sizes.challenges_each_ineligible)]
    states += [state for state, amount in zip(_SINGLE, single, strict=True) for _ in range(amount)]
    made = [_challenge(rng, people, number, state) for number, state in enumerate(states, start=1)]
    _spoil(people, made[: people.sizes.challenges], dirt)
    made += [_older_twin(challenge) for challenge in made[:SHARED_ADDRESSES]]
    made.sort(key=lambda challenge: challenge["created_at"])
    columns = [[challenge[name] for challenge in made] for name in table.c.keys()[1:]]
    return next(numbered([columns]))


def _challenge(rng: np.random.Generator, people: Population, number: int, state: str) -> dict[str, Any]:
    now, owner = people.now, int(rng.choice(people.creators))
    field = vocabulary().fields[int(people.tastes(np.array([owner]))[0, 0])]
    name = f"{field.challenges[int(rng.integers(len(field.challenges)))]} {number}"
    age = int(rng.integers(0, 88 * DAY))
    # A third was made earlier and updated inside the window: that makes it eligible too.
    earlier = int(rng.integers(0, 200 * DAY)) if rng.random() < 1 / 3 else 0
    if state == "old":
        age, earlier = int(rng.integers(92 * DAY, 500 * DAY)), 10 * DAY
    if state == "future":
        age, earlier = -int(rng.integers(2 * DAY, 90 * DAY)), 0
    updated, created = now - age, now - age - earlier
    skills = rng.choice(field.skills, 3, replace=False).tolist()
    objectives = rng.choice(_OBJECTIVES, int(rng.integers(1, 3)), replace=False).tolist()
    challenge: dict[str, Any] = {
        "user_id": owner,
        "name": name,
        "slug": _slug(name),
        "description": f"Buscamos personas que sepan de {skills[0]} y {field.knowledges[number % 8]}. "
        f"El reto: {name.lower()}. ¡Participa y cambia tu comunidad!",
        "video": f"https://media.example.com/challenges/{number}-{int(rng.integers(1 << 32)):08x}.mp4",
        "image": f"https://media.example.com/challenges/{number}.jpg" if rng.random() < 0.8 else None,
        "talent_type": _TALENT_TYPES[int(rng.integers(len(_TALENT_TYPES)))],
        "interest_areas": "[" + ", ".join(json_word(word) for word in skills) + "]",
        "type_objectives": "[" + ", ".join(json_word(word) for word in objectives) + "]",
        "status": "published",
        "status_at": _time(created + DAY // 2) if rng.random() < 0.8 else None,
        "created_at": _time(created),
        "updated_at": _time(updated),
        "deleted_at": None,
    }
    return challenge | _ineligible(state, number, challenge, people)


def _ineligible(state: str, number: int, challenge: dict[str, Any], people: Population) -> dict[str, Any]:
    """What differs from an eligible challenge."""
    changes: dict[str, dict[str, Any]] = {
        "deleted": {"deleted_at": challenge["updated_at"]},
        "draft": {"status": ("draft", "closed", None)[number % 3]},
        "without_video": {"video": None},
        "test_name": {"name": ("Reto de prueba", "TEST", "Reto test 3")[number % 3]},
        "test_description": {"description": "Descripción de prueba: no publicar."},
        "test_video": {"video": f"https://media.example.com/challenges/test-{number}.mp4"},
        "deleted_creator": {"user_id": int(people.deleted_creators[number % len(people.deleted_creators)])},
        "orphaned": {"user_id": people.absent_ids(1)[0]},
        "zero_date": {"created_at": ZERO_DATE, "updated_at": ZERO_DATE, "status_at": None},
    }
    return changes.get(state, {})


def _older_twin(challenge: dict[str, Any]) -> dict[str, Any]:
    """The same video, published earlier: eligible but for its newer twin."""
    name = f"{challenge['name']} (primera versión)"
    changes = {
        "name": name,
        "slug": _slug(name),
        "status_at": None,
        "created_at": _days_before(challenge["created_at"], 5),
        "updated_at": _days_before(challenge["updated_at"], 1),
    }
    return challenge | changes


def _days_before(time: str, days: int) -> str:
    moment = np.datetime64(time.replace(" ", "T"), "s").astype(np.int64)
    return _time(int(moment) - days * DAY)


def _spoil(people: Population, eligible: list[dict[str, Any]], dirt: Dirt) -> None:
    rng, amounts = generator(people.seed, "challenges dirt"), dirt.of_table("challenges")
    # The twins are copies of the first ones, and would copy their dirt.
    places = np.arange(SHARED_ADDRESSES, len(eligible))
    spoiled: dict[str, dict[str, str | None]] = {
        "interest_areas": SPOILED_LISTS,
        "type_objectives": SPOILED_LISTS,
        "description": SPOILED_TEXTS,
        "status_at": {"zero_date": ZERO_DATE},
    }
    for column, values in spoiled.items():
        for place, kind in spoil(rng, amounts, column, places):
            eligible[place][column] = values[kind]


def _time(seconds: int) -> str:
    return timestamps(np.array([seconds]))[0]


def _slug(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return "-".join("".join(c if c.isalnum() else " " for c in letters).split())
