"""A recommender can find something here: popularity has a long tail, and people follow their tastes."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from recommendation_service.demo.schema import RESUME_MODEL
from recommendation_service.demo.vocabulary import vocabulary

Query = Callable[..., list[Any]]

FIELDS = vocabulary().field_of_skill()


def fields_of(skills: str | None) -> list[int]:
    """The fields of a list of skills, the most frequent first; nothing for a spoiled list."""
    try:
        words = json.loads(skills or "[]")
    except ValueError:
        return []
    if not isinstance(words, list):
        return []
    counted = Counter(FIELDS[word] for word in words if isinstance(word, str))
    return [field for field, _ in counted.most_common()]


def test_the_best_tenth_of_the_videos_holds_more_than_half_of_the_views(demo: Query) -> None:
    views = {row.id: 0 for row in demo("SELECT id FROM resumes WHERE status = 'send'")}
    for row in demo(
        "SELECT model_id, COUNT(*) AS n FROM views WHERE model_type = :model GROUP BY model_id",
        model=RESUME_MODEL,
    ):
        if row.model_id in views:
            views[row.model_id] = row.n
    ranked = sorted(views.values(), reverse=True)

    assert sum(ranked[: len(ranked) // 10]) > sum(ranked) / 2
    assert min(ranked) < 10


def test_people_follow_their_tastes(demo: Query) -> None:
    tastes = {row.user_id: fields_of(row.skills) for row in demo("SELECT user_id, skills FROM profiles")}
    videos = {row.id: fields_of(row.skills) for row in demo("SELECT id, skills FROM resumes")}
    pairs = demo(
        "SELECT user_id, model_id FROM team_feedbacks WHERE type = 'ranking_resume' "
        "UNION ALL SELECT user_id, model_id FROM matches WHERE status = 'accepted' "
        "UNION ALL SELECT user_id, model_id FROM likes WHERE type = 'save'"
    )
    seen = [
        (tastes[row.user_id], videos[row.model_id][0])
        for row in pairs
        if tastes.get(row.user_id) and videos.get(row.model_id)
    ]
    share = sum(field in liked for liked, field in seen) / len(seen)
    # By chance: the same people with the same videos, paired anew.
    shifted = [(liked, seen[(place + len(seen) // 2) % len(seen)][1]) for place, (liked, _) in enumerate(seen)]
    chance = sum(field in liked for liked, field in shifted) / len(shifted)

    assert len(seen) > 200
    assert share > 0.6
    assert share > 2.5 * chance


def test_ratings_are_on_the_operators_scale_and_not_all_alike(demo: Query) -> None:
    values = Counter(
        row.value
        for row in demo("SELECT value FROM team_feedbacks WHERE type = 'ranking_resume' AND value > 0 AND value <= 5")
    )
    total = sum(values.values())

    assert set(values) <= {half / 2 for half in range(2, 11)}
    assert 3.0 < sum(value * n for value, n in values.items()) / total < 4.6
    assert max(values.values()) < total / 2
