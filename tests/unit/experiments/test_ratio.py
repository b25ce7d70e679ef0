"""The test of the sample ratio: looked at as often as one likes it is rarely wrong, and finds what loses people."""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.experiments.ratio import ALARM, log_evidence, p_value


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.95, 0.05], [0.2, 0.3, 0.5]])
def test_where_people_come_as_the_shares_say_it_is_rarely_wrong_at_any_look(shares: list[float]) -> None:
    draw, runs, error = np.random.default_rng(1), 400, 0.05
    wrong = 0
    for _ in range(runs):
        counts = np.cumsum(draw.multinomial(10, shares, size=300), axis=0)
        wrong += min(p_value(at.tolist(), shares) for at in counts) < error
    from scipy.stats import binomtest  # here: all processes of a run collect this file, and it takes a second

    assert binomtest(wrong, runs, error, alternative="greater").pvalue > 0.001


def test_the_evidence_is_the_product_of_what_each_person_adds() -> None:
    """Of the predictions of the Dirichlet's mean so far, beside those of the shares: so it is a martingale."""
    shares, weights, found = [0.7, 0.3], [70.0, 30.0], 0.0
    for place in (0, 0, 1, 0, 1, 1, 1, 0):
        found += np.log(weights[place] / sum(weights) / shares[place])
        weights[place] += 1
    assert log_evidence([4, 4], shares) == pytest.approx(found)


@pytest.mark.parametrize(("lost", "people"), [(0.4, 2_000), (0.1, 20_000), (0.05, 80_000)])
def test_an_arm_that_loses_people_is_found(lost: float, people: int) -> None:
    draw = np.random.default_rng(2)
    of_second = draw.binomial(people // 2, 1 - lost)
    assert p_value([people // 2, of_second], [0.5, 0.5]) < ALARM


def test_of_nobody_nothing_is_said() -> None:
    assert p_value([0, 0], [0.5, 0.5]) == 1.0
    assert p_value([10**9, 10**9], [0.5, 0.5]) == 1.0
