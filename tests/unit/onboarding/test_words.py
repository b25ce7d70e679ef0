"""Which column is of which table is told by their names where no key says it."""

from __future__ import annotations

import pytest

from recommendation_service.onboarding.references import singular, stem


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("users", "user"),
        ("categories", "category"),
        ("user_movies", "user_movie"),
        ("Movies", "movie"),
        ("cookies", "cookie"),
        ("TvSeries", "tv_series"),
        ("boxes", "box"),
        ("addresses", "address"),
        ("people", "person"),
        ("news", "news"),
        ("status", "status"),
    ],
)
def test_a_plural_becomes_what_its_ids_are_called_by(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_a_column_of_a_table_is_found_by_its_name() -> None:
    assert stem("movieId") == stem("movie_id") == singular("movies")
