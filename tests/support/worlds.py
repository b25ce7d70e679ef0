"""Worlds made up at random, the same for the same seed: long-tailed popularity, untidy spelling, every age."""

from __future__ import annotations

import random

from tests.support.catalogs import Challenge, Interaction, InteractionKind, User, Video, World

CITIES = ("Bogotá", "Medellín", "CDMX", "Monterrey", "Quito", "")
KINDS: tuple[InteractionKind, ...] = ("rating", "match", "save", "view")
FIRST_USER = 100_000


def random_world(
    seed: int,
    *,
    videos: int,
    challenges: int = 0,
    users: int = 0,
    creators: int = 40,
    skills: int = 60,
    longest_history: int = 30,
) -> World:
    """Videos and challenges are numbered from 1 both; users from ``FIRST_USER``, and the first of them has
    nothing, the second only a profile, the third only a history without any list."""
    draw = random.Random(seed)
    catalog = [_video(draw, number, creators, skills) for number in range(1, videos + 1)]
    bare = [video.id for video in catalog if not (video.skills or video.knowledges or video.tools)]
    people = []
    for place in range(users):
        user = _user(draw, FIRST_USER + place, videos, challenges, skills, longest_history)
        if place == 0:
            user = User(user.id)
        elif place == 1:
            user = User(user.id, (), user.skills, user.knowledges, user.tools, user.languages)
        elif place == 2:
            user = User(user.id, tuple(Interaction(number) for number in bare[:2]), skills=user.skills)
        people.append(user)
    return World(
        videos=catalog,
        challenges=[
            Challenge(
                number,
                creator=draw.randint(1, creators),
                city=draw.choice(CITIES),
                age_days=draw.uniform(0, 120),
                updated_days=draw.uniform(0, 60),
            )
            for number in range(1, challenges + 1)
        ],
        users=people,
        connections=[
            _either_way(draw, user.id, draw.randint(1, creators))
            for user in people[1:]
            for _ in range(draw.randint(0, 6))
        ],
    )


def _video(draw: random.Random, number: int, creators: int, skills: int) -> Video:
    ratings = draw.choice((0, 0, 0, 1, 2, 3, 10, 40))
    lists = draw.random() < 0.93
    return Video(
        id=number,
        creator=draw.randint(1, creators),
        skills=_words(draw, "skill", skills, 7) if lists else (),
        knowledges=_words(draw, "knowledge", 20, 4) if lists else (),
        tools=_words(draw, "tool", 20, 4) if lists else (),
        languages=_words(draw, "language", 5, 4) if lists and draw.random() < 0.8 else (),
        city=draw.choice(CITIES),
        age_days=draw.choice((draw.uniform(0, 20), draw.uniform(0, 60), draw.uniform(0, 360))),
        average=draw.uniform(1, 5) if ratings else 0.0,
        ratings=ratings,
        matches=draw.choice((0, 0, 0, 1, 2, 5)),
        saves=draw.choice((0, 0, 1, 4, 9)),
        exhibitions=draw.choice((0, 0, 1, 2)),
        views=int(draw.paretovariate(0.7)) - 1,
    )


def _user(draw: random.Random, number: int, videos: int, challenges: int, skills: int, longest_history: int) -> User:
    history = [
        Interaction(draw.randint(1, videos), draw.uniform(0, 80), draw.choice(KINDS))
        for _ in range(draw.randint(0, longest_history) if videos else 0)
    ]
    history += [
        Interaction(draw.randint(1, challenges), draw.uniform(0, 25), "view", "challenge")
        for _ in range(draw.randint(0, 3) if challenges else 0)
    ]
    return User(
        number,
        tuple(history),
        skills=_words(draw, "skill", skills, 6),
        knowledges=_words(draw, "knowledge", 20, 3),
        tools=_words(draw, "tool", 20, 3),
        languages=_words(draw, "language", 5, 2),
        recent=draw.random() < 0.8,
    )


def _words(draw: random.Random, kind: str, different: int, most: int) -> tuple[str, ...]:
    """Up to ``most`` entries, the first ones of the vocabulary more often, some spelled untidily or twice."""
    words = []
    for _ in range(draw.randint(1, most)):
        word = f"{kind} {int(different * draw.random() ** 2)}"
        words.append(draw.choice((word, word, word, word.upper(), f" {word.replace(' ', '  ')} ")))
    return tuple(words)


def _either_way(draw: random.Random, one: int, other: int) -> tuple[int, int]:
    return (one, other) if draw.random() < 0.5 else (other, one)
