"""What a shadow costs a feed, alone and with learning and an experiment: the service with it beside one without."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.beside import Row, Told, make_demo, measure_pairs, own_service
from benchmarks.server import Service
from recommendation_service.core.config import Settings
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.experiment import Arm
from recommendation_service.policies.experiments import start_experiment
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import Learned, load_policy, read_policy_file
from recommendation_service.policies.store import PolicyStore

WITHOUT = "without"
LEARNS = {"LEARNER": "store", "LEARN_PUBLISH_SECONDS": "60"}


def measure_experiment(folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Ratios to the service without. The bar: rate and P99 within 15 %."""

    def with_all(database: Path, own: Path) -> AbstractContextManager[Service]:
        store, version, deed = _learned_shadow(own)
        # Two arms of half each, what ships and what was learned, which is a shadow, too.
        arms = [Arm("control", "current", 0.5), Arm("learned", version, 0.5)]
        start_experiment(store, "measured", arms, deed, salt=None, expect=None, until_now=read_policy_file())
        return own_service(database, own, settings=LEARNS)

    return _measure(with_all, folder, rounds, seconds, told)


def measure_shadow(folder: Path, rounds: int, seconds: int, told: Told) -> list[Row]:
    """Ratios to the service without. The bar: 12 % of a feed's processor time."""

    def with_shadow(database: Path, own: Path) -> AbstractContextManager[Service]:
        _learned_shadow(own)
        return own_service(database, own)

    return _measure(with_shadow, folder, rounds, seconds, told)


def _measure(
    other: Callable[[Path, Path], AbstractContextManager[Service]], folder: Path, rounds: int, seconds: int, told: Told
) -> list[Row]:
    """``other``: of a database and a folder that is not there yet."""
    told("setting up", 0.0)
    database = make_demo(folder)
    return measure_pairs([partial(own_service, database), partial(other, database)], folder, rounds, seconds, told)


def _learned_shadow(data_dir: Path) -> tuple[PolicyStore, str, Deed]:
    """A shadow that was learned, with its store, which this makes."""
    data_dir.mkdir()
    store = PolicyStore(Settings(data_dir=data_dir).policy_dir, 10)
    deed = Deed(datetime.now(UTC), "make bench", "to measure")
    shipped, draw = load_policy(), np.random.default_rng(0)
    features = len(shipped.feature_names)
    root = draw.normal(size=(len(KINDS), features, features))
    theta = shipped.arrays.theta + draw.normal(0, 0.05, shipped.arrays.theta.shape)
    learned = Learned(theta, 1000 * np.eye(features) + root @ root.transpose(0, 2, 1))  # a dense A, as learned ones are
    version = store.publish(read_policy_file(), learned, deed, aside=True)
    store.shadow([version], deed)
    return store, version, deed
