"""Made-up logs by which what a build measures is judged, and no weight was chosen (`make quality ARGS=--unseen`).

They are drawn otherwise than those of made_up_logs.py: people and things lie in a space of tastes, things wander, fade
by powers too, and are taken because others took them. Whoever changes the ranking chooses by those, and looks here
once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.made_up_logs import Shape, Stored, moment_of, store

TRIES = 10  # until something new is found


@dataclass(frozen=True)
class World:
    """``people``, ``things``, ``days``: how many. ``step``: days over which chances stay. ``each``, ``once``, ``gap``:
    what a person takes in the middle of those who return, the share that does not, and days between. ``spread``: the
    deviation of things' quality, in logarithms; ``heavy``: a Pareto tail instead. ``life``: days of fading, where
    ``powers``: by a power of age; ``evergreen``: the share that does not. ``old``: the share there from the beginning.
    ``taste``: the deviation of what one likes, in logarithms, of ``types`` of people in ``axes`` dimensions.
    ``copied``: the share taken because it was among the last ``copied_from`` events; ``again``: repeats; ``near``: what
    lies near the one taken last. ``wander``: the deviation of things' changing chances, in logarithms, that last
    ``wander_days``; ``season``, ``season_days``: a wave by topic. ``first_hits``: how much more newcomers go by
    quality. ``terms``, ``profiles``: the share of things' and people's words that tell their topic; None: no words."""

    people: int
    things: int
    days: float
    step: float = 1.0
    each: float = 6.0
    once: float = 0.4
    gap: float = 6.0
    spread: float = 1.0
    heavy: bool = False
    life: float | None = None
    powers: bool = False
    evergreen: float = 0.0
    old: float = 0.5
    taste: float = 0.8
    types: int = 30
    axes: int = 6
    copied: float = 0.0
    copied_from: float = 500.0
    again: float = 0.0
    near: float = 0.0
    wander: float = 0.0
    wander_days: float = 30.0
    season: float = 0.0
    season_days: float = 90.0
    first_hits: float = 0.0
    untimed: float = 0.0
    terms: float | None = 0.7
    profiles: float | None = None
    makers: int = 150
    dates_only: bool = False
    has_times: bool = True  # of things


WORLDS = {
    "board-of-newcomers": World(
        9000, 2200, 75, once=0.92, each=3, life=12, powers=True, old=0.15, profiles=0.6, terms=0.9
    ),
    "silent-board": World(5000, 500, 180, once=0.8, each=4, life=30, old=0.3, copied=0.25, taste=0.5, terms=None),
    "board-by-dates": World(4500, 800, 120, once=0.75, life=18, old=0.2, dates_only=True, profiles=0.1, terms=0.1),
    "quiet-listeners": World(
        900, 6000, 150, once=0.15, each=45, gap=1.2, again=0.55, taste=1.8, near=0.25, types=24, axes=8
    ),
    "listeners-of-hits": World(
        2500, 1500, 240, once=0.4, each=15, gap=3, again=0.4, heavy=True, copied=0.25, copied_from=4000, has_times=False
    ),
    "listeners-who-turn": World(
        1200, 2500, 300, once=0.3, each=25, gap=4, again=0.3, taste=1.2, wander=0.9, wander_days=90
    ),
    "front-page": World(9000, 2500, 30, step=0.1, once=0.7, each=4, gap=1.5, life=0.4, old=0.0, spread=0.8),
    "weekly": World(4500, 900, 120, step=0.5, once=0.55, gap=7, life=6, powers=True, evergreen=0.1, old=0.3),
    "rumours": World(5000, 1000, 50, step=0.25, once=0.6, gap=3, life=3, old=0.1, copied=0.7, copied_from=80),
    "garden-shop": World(4000, 800, 500, once=0.5, gap=25, season=1.3, season_days=365),
    "shop-of-fashions": World(4000, 1000, 250, once=0.5, gap=12, wander=1.1, wander_days=25, first_hits=0.5),
    "village": World(300, 300, 200, once=0.3, each=10, gap=10),
    "corner-shop": World(2200, 300, 150, once=0.5, each=6, gap=10, spread=1.2, taste=0.4, terms=0.1),
    "warehouse": World(9000, 50_000, 150, old=0.7, heavy=True, taste=1.0, types=8),
    "half-without-times": World(3000, 900, 200, untimed=0.5, wander=0.5, wander_days=100),
    "still": World(3500, 700, 90, once=0.5, spread=1.5, taste=0.5),
    "whirl": World(3500, 700, 120, once=0.5, wander=2.0, wander_days=5),
}


class _Things(NamedTuple):
    base: Any  # (M,) logarithms of quality
    born: Any  # (M,) days
    topic: Any  # (M,) numbers
    fades: Any  # (M,) bool
    likes: Any  # (types, M) logarithms


def write(world: World, folder: Path, seed: int = 0) -> tuple[Path, str]:
    """The mapping's file and the database's address."""
    rng = np.random.default_rng([seed, 14])
    places, types = _directions(rng, world.things, world.axes), _directions(rng, world.types, world.axes)
    quality = rng.pareto(1.3, world.things) + 0.05 if world.heavy else np.exp(rng.normal(0, world.spread, world.things))
    things = _Things(
        base=np.log(quality / quality.max()),
        born=np.where(
            rng.random(world.things) < world.old,
            -rng.uniform(0.5, 300, world.things),
            rng.uniform(0, world.days, world.things),
        ),
        topic=_topics(places),
        fades=rng.random(world.things) >= world.evergreen,
        likes=world.taste * np.sqrt(world.axes) * (types @ places.T),
    )
    of_person = rng.integers(0, world.types, world.people)
    shape = Shape(
        people=world.people,
        things=world.things,
        days=int(world.days),
        groups=2 * world.axes,
        terms=world.terms,
        profiles=world.profiles,
        untimed=world.untimed,
        dates_only=world.dates_only,
        makers=world.makers,
    )
    rows = [
        (person + 1, thing + 1, None if is_like else moment_of(shape, when), "like" if is_like else "view")
        for person, thing, when in _taken(world, rng, things, of_person)
        for is_like in [rng.random() < world.untimed]
    ]
    born = things.born.tolist() if world.has_times else [None] * world.things
    return store(
        shape, folder, rng, Stored(things.topic, _topics(types)[of_person], born, ["page"] * world.things, rows)
    )


def _directions(rng: np.random.Generator, count: int, axes: int) -> Any:
    found = rng.normal(0, 1, (count, axes))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _topics(places: Any) -> Any:
    """(n,) the axis that a place is nearest to, and its side."""
    axis = np.abs(places).argmax(axis=1)
    return 2 * axis + (np.take_along_axis(places, axis[:, None], 1)[:, 0] > 0)


def _wishes(world: World, rng: np.random.Generator) -> list[tuple[float, int]]:
    found = []
    for person, joined in enumerate(rng.uniform(-0.25 * world.days, world.days, world.people).tolist()):
        many = 1 if rng.random() < world.once else 1 + int(rng.lognormal(np.log(world.each), 0.8))
        times = joined + np.concatenate([[0.0], np.cumsum(rng.exponential(world.gap, many - 1))])
        found += [(float(when), person) for when in times if 0 <= when < world.days]
    return sorted(found)


def _taken(world: World, rng: np.random.Generator, things: _Things, of_person: Any) -> list[tuple[int, int, float]]:
    """(person, thing, day) in the order of time."""
    wishes, place = _wishes(world, rng), 0
    members = [np.flatnonzero(things.topic == topic) for topic in range(2 * world.axes)]
    wander, keeps = rng.normal(0, world.wander, world.things), np.exp(-world.step / world.wander_days)
    phase = rng.uniform(0, 1, 2 * world.axes)[things.topic]
    had: dict[int, list[int]] = {}
    done: list[tuple[int, int, float]] = []
    for day in np.arange(0.0, world.days, world.step).tolist():
        wander = keeps * wander + np.sqrt(1 - keeps**2) * rng.normal(0, world.wander, world.things)
        there = things.born < day
        chances = _chances(world, things, day, phase) + wander
        sums: dict[tuple[int, bool], Any] = {}
        while place < len(wishes) and wishes[place][0] < day + world.step:
            when, person = wishes[place]
            place += 1
            mine = had.setdefault(person, [])
            key = (int(of_person[person]), not mine)
            if key not in sums:
                more = world.first_hits * things.base if key[1] else 0.0
                sums[key] = np.cumsum(np.where(there, np.exp(chances + things.likes[key[0]] + more), 0.0))
            thing = _one(world, rng, sums[key], mine, done, members[things.topic[mine[-1]]] if mine else None, there)
            if thing is not None:
                mine += [thing] if thing not in mine else []
                done.append((person, thing, when))
    return done


def _chances(world: World, things: _Things, day: float, phase: Any) -> Any:
    """(M,) logarithms."""
    age = np.maximum(day + 0.5 * world.step - things.born, 0.0)
    fading = np.zeros(world.things)
    if world.life is not None:
        fading = -1.5 * np.log1p(age / world.life) if world.powers else -age / world.life
    wave = world.season * np.sin(2 * np.pi * (day / world.season_days + phase))
    return things.base + np.where(things.fades, fading, 0.0) + wave


def _one(
    world: World,
    rng: np.random.Generator,
    sums: Any,
    mine: list[int],
    done: list[tuple[int, int, float]],
    near: Any,
    there: Any,
) -> int | None:
    """What somebody takes who had ``mine``; None: nothing new was found."""
    if sums[-1] <= 0:
        return None
    for _ in range(TRIES):
        if mine and rng.random() < world.again:
            return mine[int(rng.integers(len(mine)))]
        chance = rng.random()
        if chance < world.copied and done:
            thing = done[max(0, len(done) - 1 - int(rng.exponential(world.copied_from)))][1]
        elif near is not None and chance < world.copied + world.near:
            thing = int(near[rng.integers(len(near))])
        else:
            thing = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
        if thing < len(there) and there[thing] and thing not in mine:
            return thing
    return None
