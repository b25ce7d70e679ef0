"""What learning, a shadow and an experiment cost a feed: the service with all three beside one without, in turn."""

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
    told("setting up", 0.0)
    database = make_demo(folder)

    def with_all(own: Path) -> AbstractContextManager[Service]:
        own.mkdir()
        _begin(own)
        return own_service(database, own, settings=LEARNS)

    return measure_pairs([partial(own_service, database), with_all], folder, rounds, seconds, told)


def _begin(data_dir: Path) -> None:
    """An experiment of two arms of half each, what ships and what was learned, which is a shadow, too."""
    store = PolicyStore(Settings(data_dir=data_dir).policy_dir, 10)
    deed = Deed(datetime.now(UTC), "make bench", "to measure")
    shipped, draw = load_policy(), np.random.default_rng(0)
    features = len(shipped.feature_names)
    root = draw.normal(size=(len(KINDS), features, features))
    theta = shipped.arrays.theta + draw.normal(0, 0.05, shipped.arrays.theta.shape)
    learned = Learned(theta, 1000 * np.eye(features) + root @ root.transpose(0, 2, 1))  # a dense A, as learned ones are
    version = store.publish(read_policy_file(), learned, deed, aside=True)
    arms = [Arm("control", "current", 0.5), Arm("learned", version, 0.5)]
    start_experiment(store, "measured", arms, deed, salt=None, expect=None, until_now=read_policy_file())
    store.shadow([version], deed)
