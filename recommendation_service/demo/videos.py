"""Résumé videos: the eligible ones and every sort of ineligible one."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any

import numpy as np

from recommendation_service.demo.dirt import SPOILED_LISTS, SPOILED_TEXTS, ZERO_DATE, Dirt, spoil
from recommendation_service.demo.draws import (
    BATCH_ROWS,
    DAY,
    Flags,
    Integers,
    Reals,
    batch_sizes,
    draw_index,
    generator,
    log_normal_weights,
    timestamps,
)
from recommendation_service.demo.loading import Batch, numbered
from recommendation_service.demo.people import Population
from recommendation_service.demo.places import cities_of
from recommendation_service.demo.words import Words

_INSIDE_WINDOW, _OUTSIDE_WINDOW, _OLDEST = 358 * DAY, 362 * DAY, 1_200 * DAY
# σ of the log-normal popularity: the best tenth holds about seven tenths of the views.
_POPULARITY_SIGMA = 1.8
_INELIGIBLE_SHARE_OF_ATTENTION = 0.05

_OTHER_STATUSES = ("draft", "pending", "rejected", None)
_TEST_VIDEOS = ("prueba-{id}.mp4", "video-test-{id}.mp4", "TEST.{id}.mp4", "mi prueba {id}.mp4")
_TEST_DESCRIPTIONS = (
    "Esto es una prueba.",
    "test",
    "Video de PRUEBA del equipo, no publicar",
    "Soy Ana (test de carga) y canto.",
)
# Words that hold a test word and are none: these videos are eligible.
NEAR_TESTS = (
    "Mi testimonio: del barrio a la universidad.",
    "Gané un contest de baile en 2024.",
    "Mi mamá aprueba todo lo que cocino.",
    "Hago pruebas de sonido en conciertos.",
)


class State(IntEnum):
    """Why a résumé is in the table; only `ELIGIBLE` ones can be in a feed."""

    ELIGIBLE = 0
    DELETED = auto()
    OTHER_STATUS = auto()
    WITHOUT_VIDEO = auto()
    OLD = auto()
    TEST_VIDEO = auto()
    TEST_DESCRIPTION = auto()
    DELETED_CREATOR = auto()
    ORPHANED = auto()
    ZERO_DATE = auto()
    FUTURE = auto()


@dataclass(frozen=True, slots=True)
class Videos:
    """All résumés in the order of their ids (1, 2, …), which is that of their creation. Arrays: (n,)."""

    ids: Integers
    creators: Integers
    created: Integers
    fields: Integers
    second_fields: Integers
    states: Integers
    attention: Reals  # how likely a video is to be watched, relative to the others
    quality: Reals  # the rating people tend to give, 1 to 5

    @property
    def eligible(self) -> Flags:
        found: Flags = self.states == State.ELIGIBLE
        return found

    def absent_ids(self, n: int) -> list[int]:
        return list(range(len(self.ids) + 5_001, len(self.ids) + 5_001 + n))


def film(people: Population, dirt: Dirt) -> Videos:
    """Decide on all résumés: whose, when, in which field, how popular."""
    rng, sizes, now = generator(people.seed, "resumes"), people.sizes, people.now
    amounts = {
        State.ELIGIBLE: sizes.resumes,
        State.DELETED: sizes.resumes_deleted,
        State.OTHER_STATUS: sizes.resumes_other_status,
        State.WITHOUT_VIDEO: sizes.resumes_without_video,
        State.OLD: sizes.resumes_old,
        State.TEST_VIDEO: sizes.resumes_test_video,
        State.TEST_DESCRIPTION: sizes.resumes_test_description,
        State.DELETED_CREATOR: sizes.resumes_deleted_creator,
        State.ORPHANED: dirt.resumes_user_id_orphaned,
        State.ZERO_DATE: dirt.resumes_created_at_zero_date,
        State.FUTURE: dirt.resumes_created_at_future,
    }
    states = np.repeat([int(state) for state in amounts], list(amounts.values()))
    n = len(states)

    creators = rng.choice(people.creators, n)
    # Everyone who creates has one eligible video; who has more follows a long tail.
    creators[: sizes.creators] = rng.permutation(people.creators)
    productive = np.cumsum(log_normal_weights(rng, sizes.creators, 1.0))
    more = sizes.resumes - sizes.creators
    creators[sizes.creators : sizes.resumes] = people.creators[draw_index(rng, productive, more)]
    veterans = people.creators[: len(people.creators) // 4]  # registered long before the oldest video
    creators[states == State.OLD] = rng.choice(veterans, sizes.resumes_old)
    creators[states == State.DELETED_CREATOR] = rng.choice(people.deleted_creators, sizes.resumes_deleted_creator)
    creators[states == State.ORPHANED] = people.absent_ids(dirt.resumes_user_id_orphaned)

    registered = np.where(states == State.ORPHANED, now - _INSIDE_WINDOW, people.created(creators))
    ages = np.minimum(now - registered, _INSIDE_WINDOW) * rng.beta(1.0, 1.3, n)
    old_ages = rng.uniform(_OUTSIDE_WINDOW, _OLDEST, n)
    created = now - np.where(states == State.OLD, old_ages, ages).astype(np.int64)
    created[states == State.FUTURE] = now + rng.integers(2, 400, dirt.resumes_created_at_future) * DAY

    first, second = people.tastes(creators).T
    swap = (second >= 0) & (rng.random(n) < 0.2)
    fields, second_fields = np.where(swap, second, first), np.where(swap, first, second)

    is_eligible = states == State.ELIGIBLE
    attention = np.empty(n)
    attention[is_eligible] = log_normal_weights(rng, sizes.resumes, _POPULARITY_SIGMA)
    others = log_normal_weights(rng, n - sizes.resumes, _POPULARITY_SIGMA)
    scale = _INELIGIBLE_SHARE_OF_ATTENTION * attention[is_eligible].sum() / others.sum()
    attention[~is_eligible] = others * scale

    order = np.argsort(created, kind="stable")
    return Videos(
        ids=np.arange(1, n + 1),
        creators=creators[order],
        created=created[order],
        fields=fields[order],
        second_fields=second_fields[order],
        states=states[order],
        attention=attention[order],
        quality=np.clip(rng.normal(3.7, 0.7, n), 1.0, 5.0),
    )


def resume_rows(people: Population, videos: Videos, words: Words, dirt: Dirt) -> Iterator[Batch]:
    return numbered(_resume_columns(people, videos, words, dirt))


def _resume_columns(people: Population, videos: Videos, words: Words, dirt: Dirt) -> Iterator[list[list[Any]]]:
    spoiled = _spoiled(people, videos, dirt)
    near_tests = _near_tests(people, videos, spoiled)
    for batch, rows in batch_sizes(len(videos.ids)):
        here = slice(batch * BATCH_ROWS, batch * BATCH_ROWS + rows)
        rng, n = generator(people.seed, "resumes", batch + 1), rows
        ids, creators, states = videos.ids[here], videos.creators[here], videos.states[here]
        created, first, second = videos.created[here], videos.fields[here], videos.second_fields[here]
        created_at = timestamps(created)
        updated = np.minimum(created + rng.integers(0, 20 * DAY, n), np.maximum(people.now, created))
        columns: dict[str, list[Any]] = {
            "user_id": creators.tolist(),
            "video": [
                f"https://media.example.com/resumes/{creator}/{video_id}-{code:08x}.mp4"
                for creator, video_id, code in zip(
                    creators.tolist(), ids.tolist(), rng.integers(0, 1 << 32, n).tolist(), strict=True
                )
            ],
            "image": [
                f"https://media.example.com/resumes/{creator}/{video_id}.jpg" if drawn < 0.7 else None
                for creator, video_id, drawn in zip(
                    creators.tolist(), ids.tolist(), rng.random(n).tolist(), strict=True
                )
            ],
            "views": rng.integers(0, 40, n).tolist(),  # stale, as the operator's is
            "skills": words.skills.json_lists(rng, first, second, least=3, most=6),
            "knowledges": words.knowledges.json_lists(rng, first, second, least=1, most=3, empty_share=0.1),
            "tools": words.tools.json_lists(rng, first, second, least=1, most=3, empty_share=0.1),
            "languages": words.languages.json_lists(rng, n, least=1, most=3),
            "role_objectives": words.objectives.json_lists(rng, first, second, least=1, most=2, empty_share=0.1),
            "description": words.descriptions(rng, first, [city for _, city, _ in cities_of(creators, people.seed)]),
            "status": ["send"] * n,
            "created_at": created_at,
            "updated_at": timestamps(updated),
            "deleted_at": [None] * n,
        }
        for place in np.flatnonzero(states != State.ELIGIBLE).tolist():
            _make_ineligible(columns, place, int(states[place]), int(ids[place]))
        for place, video_id in enumerate(ids.tolist()):
            if video_id in near_tests:
                columns["description"][place] = near_tests[video_id]
            for column, kind in spoiled.get(video_id, ()):
                table = SPOILED_TEXTS if column == "description" else SPOILED_LISTS
                columns[column][place] = table[kind]
        yield list(columns.values())


def _make_ineligible(columns: dict[str, list[Any]], place: int, state: int, video_id: int) -> None:
    match state:
        case State.DELETED:
            columns["deleted_at"][place] = columns["updated_at"][place]
        case State.OTHER_STATUS:
            columns["status"][place] = _OTHER_STATUSES[video_id % len(_OTHER_STATUSES)]
        case State.WITHOUT_VIDEO:
            columns["video"][place] = None
        case State.TEST_VIDEO:
            name = _TEST_VIDEOS[video_id % len(_TEST_VIDEOS)].format(id=video_id)
            columns["video"][place] = f"https://media.example.com/resumes/{name}"
        case State.TEST_DESCRIPTION:
            columns["description"][place] = _TEST_DESCRIPTIONS[video_id % len(_TEST_DESCRIPTIONS)]
        case State.ZERO_DATE:
            columns["created_at"][place] = ZERO_DATE
            columns["updated_at"][place] = ZERO_DATE
        case _:
            pass


def _spoiled(people: Population, videos: Videos, dirt: Dirt) -> dict[int, list[tuple[str, str]]]:
    rng, amounts = generator(people.seed, "resumes dirt"), dirt.of_table("resumes")
    eligible = videos.ids[videos.eligible]
    spoiled: dict[int, list[tuple[str, str]]] = {}
    for column in ("skills", "knowledges", "tools", "languages", "role_objectives", "description"):
        for video_id, kind in spoil(rng, amounts, column, eligible):
            spoiled.setdefault(video_id, []).append((column, kind))
    return spoiled


def _near_tests(people: Population, videos: Videos, spoiled: dict[int, list[tuple[str, str]]]) -> dict[int, str]:
    eligible = [video_id for video_id in videos.ids[videos.eligible].tolist() if video_id not in spoiled]
    chosen = generator(people.seed, "near tests").choice(eligible, len(NEAR_TESTS), replace=False)
    return dict(zip(chosen.tolist(), NEAR_TESTS, strict=True))
