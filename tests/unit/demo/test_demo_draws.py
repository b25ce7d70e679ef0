"""Draws: the same for the same seed, without repetition where that is promised, and long-tailed."""

from datetime import UTC, datetime

import numpy as np

from recommendation_service.demo.draws import (
    batch_sizes,
    draw_index,
    draw_subsets,
    epoch_seconds,
    generator,
    hashed_unit,
    log_normal_weights,
    timestamps,
)


def test_a_purpose_has_a_stream_of_its_own() -> None:
    same = generator(7, "likes", 3).random(5)

    assert np.array_equal(same, generator(7, "likes", 3).random(5))
    assert not np.array_equal(same, generator(7, "likes", 4).random(5))
    assert not np.array_equal(same, generator(7, "matches", 3).random(5))
    assert not np.array_equal(same, generator(8, "likes", 3).random(5))


def test_timestamps_are_text_in_utc() -> None:
    noon = epoch_seconds(datetime(2026, 11, 24, 12, 0, 5, tzinfo=UTC))

    assert timestamps(np.array([0, noon])) == ["1970-01-01 00:00:00", "2026-11-24 12:00:05"]
    assert timestamps(np.array([], dtype=np.int64)) == []


def test_a_time_without_a_zone_is_utc() -> None:
    aware = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

    assert epoch_seconds(aware.replace(tzinfo=None)) == epoch_seconds(aware)


def test_subsets_repeat_nothing_and_leave_impossible_words_out() -> None:
    log_weights = np.array([0.0, -1.0, -2.0, -np.inf, -0.5])

    subsets = draw_subsets(generator(1, "subsets"), log_weights, 500, 4)

    assert all(len(set(row)) == 4 for row in subsets.tolist())
    assert 3 not in subsets


def test_an_index_is_drawn_in_proportion_to_its_weight() -> None:
    drawn = draw_index(generator(1, "index"), np.cumsum([1.0, 0.0, 3.0]), 20_000)

    shares = np.bincount(drawn, minlength=3) / len(drawn)

    assert shares[1] == 0
    assert abs(shares[2] - 0.75) < 0.02


def test_the_best_tenth_of_the_weights_holds_more_than_half() -> None:
    for n in (40, 2_200):
        weights = np.sort(log_normal_weights(generator(1, "weights"), n, 1.8))
        assert weights[-(n // 10) :].sum() > weights.sum() / 2


def test_a_hash_is_spread_evenly_and_differs_by_salt() -> None:
    ids = np.arange(1, 10_001)

    units = hashed_unit(ids, 3)

    assert units.min() >= 0
    assert units.max() < 1
    assert np.all(np.abs(np.histogram(units, 10, (0, 1))[0] - 1_000) < 150)
    assert abs(np.corrcoef(units, hashed_unit(ids, 4))[0, 1]) < 0.05


def test_batches_cover_all_rows() -> None:
    assert list(batch_sizes(45, 20)) == [(0, 20), (1, 20), (2, 5)]
    assert list(batch_sizes(0, 20)) == []
