"""Which policy is served: POLICY_FILE where it is set, else the store's current version, else the one that the mapping
begins with, and without a mapping the one that ships."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import structlog

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import PolicyError
from recommendation_service.policies.experiment import Experiment
from recommendation_service.policies.mapped import starting_file, starting_policy
from recommendation_service.policies.policy import Policy, load_policy, read_policy_file
from recommendation_service.policies.store import PolicyStore
from recommendation_service.sources.mapping.mapping import load_mapping

log = structlog.get_logger(__name__)

Shadows = tuple[Policy, ...]
_Named = tuple[str | None, tuple[str, ...], Experiment | None, str | None]


def begun_with(settings: Settings) -> bytes:
    """The policy file that is served before the store has a version. Raises ConfigurationError, PolicyError."""
    return shipped(settings) if settings.policy_file is None else read_policy_file(settings.policy_file)


def shipped(settings: Settings) -> bytes:
    """What a mapping begins with, and without a mapping the policy file that ships. Raises ConfigurationError."""
    return read_policy_file() if settings.mapping_file is None else starting_file(load_mapping(settings.mapping_file))


class PolicyChoice:
    """Follows the store for whoever serves, or builds with, a policy.

    ``shipped`` is what the mapping begins with, and without one the policy that ships. ``policy``, ``shadows`` and
    ``experiment`` are what was last taken up, before that POLICY_FILE or what is shipped: nothing of DATA_DIR is read
    until then. A version that cannot be served changes nothing, and
    ``problems`` says why; of an experiment that lacks an arm no arm is served.
    """

    def __init__(self, settings: Settings, refused: Callable[[], None] = lambda: None) -> None:
        """``refused``: told of each version that is. Raises ConfigurationError with every problem of POLICY_FILE."""
        self._store = PolicyStore(settings.policy_dir, settings.policy_keep)
        self._file: Path | None = settings.policy_file
        self._refused = refused
        self.problems: list[str] = []
        self._looked_at: _Named | None = None
        mapping = load_mapping(settings.mapping_file) if settings.mapping_file is not None else None
        self.shipped = starting_policy(mapping) if mapping is not None else load_policy()
        self.policy = self.shipped if self._file is None else load_policy(self._file)
        self._feeds = frozenset(self.shipped.file.feeds) if mapping is not None else frozenset[str]()
        self.shadows: Shadows = ()
        self.experiment: Experiment | None = None
        self.arms: tuple[Policy, ...] = ()  # of the experiment, in its order
        self._has_live = settings.learn_promotion == "gated" and settings.learn_live_share > 0
        self.live: Shadows = ()  # of the shadows, those that make a share of the feeds

    def is_changed(self) -> bool:
        """Whether other versions are named than when they were last taken up: a read of some bytes."""
        return self._named() != self._looked_at

    def take_up(self) -> Self:
        """Open what is named. Reads some files: call it off the event loop."""
        is_first = self._looked_at is None
        version, shadows, experiment, unread = self._looked_at = self._named()
        self.problems = []
        if unread is not None:
            self._refuse(unread)
        if version is not None and version != self.policy.version:
            opened = self._opened(version, "The current policy is not served")
            self.policy = opened or (self._served_before() if is_first else None) or self.policy
        if absent := self._feeds - self.policy.file.feeds.keys():
            self.problems.append(
                f"The policy that is served, {self.policy.version}, lacks feeds of the mapping: "
                f"{', '.join(sorted(absent))}. `recs policy publish` serves the kinds and feeds of its file."
            )
        self.shadows = tuple(shadow for name in shadows if (shadow := self._shadow(name)) is not None)
        tried = self._store.tried() if self._has_live and shadows else []
        self.live = tuple(shadow for shadow in self.shadows if shadow.version in tried)
        self.arms = self._arms(experiment) if experiment is not None else ()
        self.experiment = experiment if self.arms else None
        return self

    def kept(self, version: str) -> Policy | None:
        """A version that is not served any more, where it is still on disk and whole."""
        try:
            return self._store.open(version)
        except PolicyError:
            return None

    def _named(self) -> _Named:
        """The version to serve, the shadows, the experiment, and why nobody knows it. None: what is served stays."""
        if self._file is not None:
            return None, (), None, None
        return self._store.current(), self._store.shadows(), *self._store.named_experiment()

    def _arms(self, experiment: Experiment) -> tuple[Policy, ...]:
        """All of them, or none. Of versions that are served already, the same policies."""
        known = {policy.version: policy for policy in (self.policy, *self.shadows, *self.arms)}
        told = f"Experiment {experiment.name} is not served"
        for version in experiment.versions:
            if version not in known and (opened := self._opened(version, told)) is not None:
                known[version] = opened
        arms = [known.get(version) for version in experiment.versions]
        return tuple(arm for arm in arms if arm is not None) if None not in arms else ()

    def _served_before(self) -> Policy | None:
        """The latest whole version that was served before the current one, for a start where that is damaged."""
        return next((policy for version in self._store.served_before() if (policy := self.kept(version))), None)

    def _opened(self, version: str, otherwise: str) -> Policy | None:
        try:
            return self._store.open(version)
        except PolicyError as error:
            self._tell(version, f"{otherwise}: {error}.")
            return None

    def _shadow(self, version: str) -> Policy | None:
        """One that would draw from other pools than the policy that is served cannot be weighed beside it."""
        shadow = self._opened(version, "A shadow is not loaded")
        if shadow is not None and shadow.pools_digest != self.policy.pools_digest:
            told = f"policy version {version} draws from other pools than {self.policy.version}"
            self._tell(version, f"A shadow is not loaded: {told}.")
            return None
        return shadow

    def _tell(self, version: str, reason: str) -> None:
        self._refuse(reason, version=version)

    def _refuse(self, reason: str, **what: str) -> None:
        self.problems.append(reason)
        self._refused()
        log.error("policy refused", reason=reason, **what)
