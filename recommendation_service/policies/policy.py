"""A policy version: its file, and the arrays that the kernels read."""

import functools
import hashlib
import tomllib
from copy import copy
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from pydantic import ValidationError

from recommendation_service.core.errors import ConfigurationError, PolicyError
from recommendation_service.mappings.shipped import STARTING_POLICY
from recommendation_service.model.columns import Float64
from recommendation_service.model.features import HAND_SET, USER_TERMS
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.policies.format import PolicyFile, contradictions

SHIPPED = STARTING_POLICY


class Learned(NamedTuple):
    """What was learned under a policy file; of K kinds and d features."""

    theta: Float64  # (K, d) posterior mean
    A: Float64  # (K, d, d) posterior precision, symmetric and positive definite
    temperature: Float64 | None = None  # (K,) of the draws; None: the file's


class Policy:
    """A policy version: the file, and the arrays that the kernels read."""

    def __init__(
        self,
        file: PolicyFile,
        theta: Float64 | None = None,
        A: Float64 | None = None,
        temperature: Float64 | None = None,
        version: str | None = None,
    ) -> None:
        """``theta``, ``A``, ``temperature``: what was learned, else the prior and the file's.

        ``version``: of the store, else the file's own.
        """
        self.file = file
        self.version = version or file.version
        self.arrays = _arrays(file, theta, A)
        if temperature is not None:
            self.arrays = self.arrays._replace(temperature=np.array(temperature, np.float64, order="C"))

    def demand_feed(self, name: str) -> None:
        """Raises PolicyError where it has no such feed."""
        if name not in self.file.feeds:
            raise PolicyError(f"policy {self.version} has no feed {name}; its feeds are {', '.join(self.file.feeds)}")

    def relearned(self, learned: Learned) -> "Policy":
        """The same file, and something else learned, with its temperatures."""
        other = copy(self)
        theta, temperature = (np.array(one, np.float64, order="C") for one in (learned.theta, learned.temperature))
        root = _precision_root(learned.A)
        other.arrays = self.arrays._replace(theta=theta, precision_root=root, temperature=temperature)
        return other

    @property
    def feature_names(self) -> tuple[str, ...]:
        return self.file.feature_names

    @property
    def added_features(self) -> list[str]:
        """What a catalog must have for the features beside the 18, in words."""
        return [added.of_item for added in self.file.added_features]

    @property
    def catalog_digest(self) -> str:
        """Changes when the parts change that a catalog is built with; its static features, hand-set
        sums and orderings then have to be computed anew."""
        file = self.file
        own = [kind for name, kind in file.kinds_in_use.items() if name not in KINDS]
        parts = [file.cuts, file.features, file.terms, file.pruning, *(file.kinds.get(name) for name in KINDS), *own]
        drawing = {"alpha", "temperature", "pool", "number"}
        content: list[object] = [part.model_dump(exclude=drawing) if part else None for part in parts]
        if file.collaborative is not None:
            content.append(file.collaborative.model_dump())
        content += [kind.number for kind in own]
        if file.measuring is not None:
            content.append(file.measuring.model_dump())
        text = msgspec.json.encode(content + self.added_features)
        return hashlib.sha256(text).hexdigest()[:16]

    @property
    def pools_digest(self) -> str:
        """The same for policies that draw from the same pools under the same limits, so that one's probability of
        what the other drew can be told: they differ in what was learned, and in how boldly and evenly they draw."""
        content = self.file.model_dump(exclude={"version", "prior"})
        if self.file.measuring is None:
            del content["measuring"]  # as it was before there was such a section
        for kind in content["kinds"].values():
            del kind["alpha"], kind["temperature"]
        del content["exploration"]["floor"]
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]

    def label(self, kind: int) -> str:
        """A kind's name outside; of one that this policy leaves out, its own."""
        name = self.file.kind_names[kind]
        return self.file.kinds[name].label if name in self.file.kinds else name


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file; without a path, the one that ships with the package.

    Raises ConfigurationError with every problem of the file.
    """
    return Policy(parse_policy(read_policy_file(path), f"policy file {path or SHIPPED}"))


def read_policy_file(path: Path | None = None) -> bytes:
    """What a policy file holds. Raises ConfigurationError."""
    try:
        return (path or SHIPPED).read_bytes()
    except OSError as error:
        raise ConfigurationError([f"policy file {path}: {error.strerror}"]) from error


def parse_policy(text: bytes, name: str) -> PolicyFile:
    """Raises ConfigurationError with every problem of the file, each beginning with ``name``."""
    try:
        return _parsed(text)
    except ConfigurationError as error:
        raise ConfigurationError([f"{name}{problem}" for problem in error.problems]) from error.__cause__


@functools.lru_cache(maxsize=8)
def _parsed(text: bytes) -> PolicyFile:
    """A learner's versions are thousands, of one file: to read and check it takes milliseconds."""
    try:
        content = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f" is not TOML: {error}"]) from error
    problems = contradictions(content)
    try:
        file = PolicyFile.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors()] + problems
    if problems:
        raise ConfigurationError([f", {problem}" for problem in problems])
    return file


def learned_problems(learned: Learned, file: PolicyFile) -> list[str]:
    """Why a kernel must not read these arrays under ``file``; empty where it may."""
    kinds, d = len(file.kind_names), len(file.feature_names)
    problems = []
    arrays = [("theta", learned.theta, (kinds, d)), ("A", learned.A, (kinds, d, d))]
    if learned.temperature is not None:
        arrays.append(("temperature", learned.temperature, (kinds,)))
    for name, array, shape in arrays:
        if array.shape != shape or array.dtype.kind not in "fiu":
            problems.append(f"{name} must be numbers of shape {shape}, but is {array.dtype} of shape {array.shape}")
        elif not np.isfinite(array).all():
            problems.append(f"{name} must be finite, but {np.count_nonzero(~np.isfinite(array))} numbers are not")
    if problems:
        return problems
    if learned.temperature is not None and (learned.temperature <= 0).any():
        problems.append("temperature must be more than 0")
    for kind, A in zip(file.kind_names, np.asarray(learned.A, np.float64), strict=True):
        if not np.allclose(A, A.T, rtol=1e-9, atol=0.0):
            problems.append(f"A of {kind} must be symmetric")
        elif np.linalg.eigvalsh(A)[0] <= 0:
            problems.append(f"A of {kind} must be positive definite")
    return problems


def _precision_root(A: Float64) -> Float64:
    inverse = np.linalg.inv(np.linalg.cholesky(np.asarray(A, np.float64)))
    return np.ascontiguousarray(inverse.transpose(0, 2, 1))


def _arrays(file: PolicyFile, theta: Float64 | None, A: Float64 | None) -> PolicyArrays:
    """Every policy's are of the same types and layouts, and writable: to Numba anything else is another type, and a
    policy that is taken up would be compiled for."""
    names = file.kind_names
    kinds = [file.kinds.get(name) for name in names]
    features, prior, d = file.features, file.prior, len(file.feature_names)
    collaborative = file.collaborative
    recency = np.zeros(0)
    if collaborative is not None:
        recency = np.exp(-np.arange(collaborative.latest_items) / collaborative.recency_items)
    if theta is None:
        theta = np.zeros((len(kinds), d))
        theta[:, HAND_SET] = prior.hand_feature_mean
    if A is None:
        A = np.broadcast_to(np.eye(d) * prior.precision, (len(kinds), d, d))
    patterns = [[names.index(kind) for kind in pattern] for pattern in file.feeds.values()]
    longest = max(map(len, patterns))
    weights = (features.match_skill, features.match_knowledge, features.match_tool, features.match_language)

    def user_weight(term: str) -> Float64:
        return np.array([kind.weights.get(term, 0.0) if kind else 0.0 for kind in kinds])

    return PolicyArrays(
        theta=np.array(theta, np.float64, order="C"),
        precision_root=_precision_root(A),
        alpha=np.array([kind.alpha if kind else 0.0 for kind in kinds]),
        temperature=np.array([kind.temperature if kind else 1.0 for kind in kinds]),
        pool=np.array([kind.pool if kind else 0 for kind in kinds]),
        weight_similarity=user_weight("similarity"),
        weight_match=user_weight("match"),
        weight_network=user_weight("network"),
        weight_collaborative=user_weight("collaborative"),
        latest_weight=recency,
        added_term=np.array(
            [USER_TERMS.index(added.times) + 1 if added.times else 0 for added in file.added_features], np.int64
        ),
        match_weight=np.array(weights) / 100.0,
        similarity=np.array(
            [
                features.similarity_cosine,
                features.similarity_share,
                features.similarity_without_history,
                features.similarity_without_skills,
            ]
        ),
        pattern=np.array([pattern + [0] * (longest - len(pattern)) for pattern in patterns]),
        pattern_length=np.array([len(pattern) for pattern in patterns]),
        first_added=d - len(file.added_features),
        match_cap=features.match_cap / 100.0,
        profile_weight=1.0,
        reach_scale=features.reach_scale,
        hand_scale=features.hand_scale,
        history_items=file.user.history_items,
        creator_window=file.limits.creator_window,
        novelty_after_skills=file.limits.novelty_after_skills,
        exploration_size=file.exploration.size,
        floor=file.exploration.floor,
        exact_up_to_videos=file.pruning.exact_up_to_videos,
        prune_skills=file.pruning.skills,
        entries_per_skill=file.pruning.entries_per_skill,
        entries_per_pair=file.pruning.entries_per_pair,
        static_entries=file.pruning.static_entries,
    )
