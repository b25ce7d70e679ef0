"""The policy: every weight, window and size that decides what a feed holds, from one versioned file."""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recommendation_service.catalog.layout import ATTRIBUTE_PLACES, SKILL_PLACES
from recommendation_service.core.errors import ConfigurationError

FEATURES = 18
FEATURE_NAMES = (
    "engagement",
    "recency",
    "quality",
    "popularity",
    "attribute_count",
    "skill_similarity",
    "attribute_match",
    "same_city",
    "creator_in_network",
    "views",
    "average_rating",
    "skill_rarity",
    "quality_gate",
    "reach",
    "ratings",
    "saves",
    "exhibitions",
    "hand_set_score",
)
KINDS = ("VMP", "AU", "NU", "FW", "FLOW")
ENDPOINTS = ("total", "discover", "flow")

# Terms of a kind's hand-set sum that do not depend on the user, and those that do.
STATIC_TERMS = (
    "engagement",
    "recency",
    "quality",
    "popularity",
    "attribute_count",
    "rarity",
    "fresh",
    "boost",
    "days_left",
    "share_left",
)
USER_TERMS = ("similarity", "match", "network")

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
KindName = Literal["VMP", "AU", "NU", "FW", "FLOW"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cuts(_Section):
    """How many entries of each list count; the catalog has so many places and no more."""

    skills: Annotated[int, Field(ge=1, le=SKILL_PLACES)]
    knowledges: Annotated[int, Field(ge=1, le=ATTRIBUTE_PLACES)]
    tools: Annotated[int, Field(ge=1, le=ATTRIBUTE_PLACES)]
    languages: Annotated[int, Field(ge=1, le=ATTRIBUTE_PLACES)]


class FeatureConstants(_Section):
    """Constants of the 18 features; the policy file says beside each where it belongs."""

    engagement_views: NotNegative
    engagement_rating: NotNegative
    engagement_matches: NotNegative
    recency_days: Positive
    recency_boost: Positive
    recency_boost_days: NotNegative
    quality_average: NotNegative
    quality_matches: NotNegative
    quality_prior_ratings: Positive
    popularity_views: NotNegative
    popularity_average: NotNegative
    popularity_matches: NotNegative
    attribute_count_scale: Positive
    similarity_cosine: NotNegative
    similarity_share: NotNegative
    similarity_without_history: NotNegative
    similarity_without_skills: NotNegative
    match_skill: NotNegative
    match_knowledge: NotNegative
    match_tool: NotNegative
    match_language: NotNegative
    match_cap: Positive
    views_scale: Positive
    rating_scale: Positive
    gate_average: NotNegative
    gate_views: NotNegative
    gate_matches: NotNegative
    gate_ratings: NotNegative
    gate_age_days: NotNegative
    reach_scale: Positive
    hand_scale: Positive


class UserConstants(_Section):
    history_items: Count


class Limits(_Section):
    creator_window: Count
    novelty_after_skills: Count


class Exploration(_Section):
    size: Count


class Pruning(_Section):
    exact_up_to_videos: Count
    skills: Count
    entries_per_skill: Count
    entries_per_pair: Annotated[int, Field(ge=0)]
    static_entries: Count


class Prior(_Section):
    precision: Positive
    hand_feature_mean: Finite


class Feeds(_Section):
    """The slot pattern of each endpoint."""

    total: Annotated[list[KindName], Field(min_length=1, max_length=100)]
    discover: Annotated[list[KindName], Field(min_length=1, max_length=100)]
    flow: Annotated[list[KindName], Field(min_length=1, max_length=100)]


class Terms(_Section):
    fresh_days: NotNegative
    boost: Positive
    boost_days: NotNegative
    days_left_of: Positive
    share_left_of: Positive


class Kind(_Section):
    """A slot kind: which items, the hand-set sum, and how one is drawn."""

    label: str
    item: Literal["resume", "challenge"]
    pool: Annotated[int, Field(ge=1, le=1000)]
    alpha: NotNegative
    temperature: Positive
    gate: bool = False
    max_age_days: NotNegative | None = None
    weights: dict[str, Finite]


class Kinds(_Section):
    VMP: Kind
    AU: Kind
    NU: Kind
    FW: Kind
    FLOW: Kind


class PolicyFile(_Section):
    """The policy file, validated whole: every problem is named at once."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    cuts: Cuts
    features: FeatureConstants
    user: UserConstants
    limits: Limits
    exploration: Exploration
    pruning: Pruning
    prior: Prior
    feeds: Feeds
    terms: Terms
    kinds: Kinds

    def kind(self, name: KindName) -> Kind:
        kind: Kind = getattr(self.kinds, name)
        return kind


class PolicyArrays(NamedTuple):
    """What the kernels read. K kinds, d = 18 features; all float64 or int64."""

    theta: Floats  # (K, d) posterior mean
    precision_root: Floats  # (K, d, d) (R⁻¹)ᵀ, upper triangular, with A = R Rᵀ, so xᵀA⁻¹x = ‖R⁻¹x‖²
    alpha: Floats  # (K,)
    temperature: Floats  # (K,)
    pool: Integers  # (K,)
    weight_similarity: Floats  # (K,)
    weight_match: Floats  # (K,)
    weight_network: Floats  # (K,)
    match_weight: Floats  # (4,) of a shared skill, knowledge, tool, language, on feature 6's 0–1 scale
    similarity: Floats  # (4,) cosine, share, without history, without skills
    pattern: Integers  # (endpoints, longest pattern) kinds of the slots
    pattern_length: Integers  # (endpoints,)
    kind_is_video: Integers  # (K,) 1 for résumés
    match_cap: float  # on the same scale as match_weight
    reach_scale: float
    hand_scale: float
    history_items: int
    creator_window: int
    novelty_after_skills: int
    exploration_size: int
    exact_up_to_videos: int
    prune_skills: int
    entries_per_skill: int
    entries_per_pair: int
    static_entries: int


class Policy:
    """A policy version: the file, and the arrays that the kernels read."""

    def __init__(self, file: PolicyFile, theta: Floats | None = None, A: Floats | None = None) -> None:
        self.file = file
        self.version = file.version
        self.arrays = _arrays(file, theta, A)

    @property
    def catalog_digest(self) -> str:
        """Changes when the parts change that a catalog is built with; its static features, hand-set
        sums and orderings then have to be computed anew."""
        file = self.file
        parts = [file.cuts, file.features, file.terms, file.pruning, *(file.kind(name) for name in KINDS)]  # type: ignore[arg-type]
        text = msgspec.json.encode([part.model_dump(exclude={"alpha", "temperature", "pool"}) for part in parts])
        return hashlib.sha256(text).hexdigest()[:16]

    def label(self, kind: int) -> str:
        return self.file.kind(KINDS[kind]).label  # type: ignore[arg-type]


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file; without a path, the one that ships with the package.

    Raises ConfigurationError with every problem of the file.
    """
    path = path or Path(__file__).resolve().parent.parent / "policies" / "starting.toml"
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError([f"policy file {path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"policy file {path} is not TOML: {error}"]) from error
    problems = _contradictions(content)
    try:
        file = PolicyFile.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors()] + problems
    if problems:
        raise ConfigurationError([f"policy file {path}, {problem}" for problem in problems])
    return Policy(file)


def _contradictions(content: dict[str, Any]) -> list[str]:
    """What no field alone can tell; looks at the raw content, so that it is told beside wrong fields."""
    problems = []
    kinds, feeds = content.get("kinds"), content.get("feeds")
    for name, kind in kinds.items() if isinstance(kinds, dict) else ():
        weights = kind.get("weights") if isinstance(kind, dict) else None
        for term, weight in weights.items() if isinstance(weights, dict) else ():
            if term not in (*STATIC_TERMS, *USER_TERMS):
                known = ", ".join((*STATIC_TERMS, *USER_TERMS))
                problems.append(f"kinds.{name}.weights.{term}: there is no such term; the terms are {known}")
            elif term in USER_TERMS and isinstance(weight, int | float) and weight < 0:
                problems.append(f"kinds.{name}.weights.{term}: must be 0 or more, but is {weight}")
    for endpoint, item in (("discover", "resume"), ("flow", "challenge")):
        pattern = feeds.get(endpoint) if isinstance(feeds, dict) else None
        for name in pattern if isinstance(pattern, list) else ():
            kind = kinds.get(name) if isinstance(kinds, dict) and isinstance(name, str) else None
            if isinstance(kind, dict) and kind.get("item") not in (None, item):
                problems.append(f"feeds.{endpoint}: holds only {item}s, but names {name}")
    return list(dict.fromkeys(problems))


def _arrays(file: PolicyFile, theta: Floats | None, A: Floats | None) -> PolicyArrays:
    kinds = [file.kind(name) for name in KINDS]  # type: ignore[arg-type]
    features, prior = file.features, file.prior
    if theta is None:
        theta = np.zeros((len(kinds), FEATURES))
        theta[:, FEATURES - 1] = prior.hand_feature_mean
    if A is None:
        A = np.broadcast_to(np.eye(FEATURES) * prior.precision, (len(kinds), FEATURES, FEATURES))
    patterns = [[KINDS.index(kind) for kind in getattr(file.feeds, endpoint)] for endpoint in ENDPOINTS]
    longest = max(map(len, patterns))
    weights = (features.match_skill, features.match_knowledge, features.match_tool, features.match_language)

    def user_weight(term: str) -> Floats:
        return np.array([kind.weights.get(term, 0.0) for kind in kinds])

    return PolicyArrays(
        theta=np.ascontiguousarray(theta, np.float64),
        precision_root=np.ascontiguousarray(np.linalg.inv(np.linalg.cholesky(A)).transpose(0, 2, 1)),
        alpha=np.array([kind.alpha for kind in kinds]),
        temperature=np.array([kind.temperature for kind in kinds]),
        pool=np.array([kind.pool for kind in kinds]),
        weight_similarity=user_weight("similarity"),
        weight_match=user_weight("match"),
        weight_network=user_weight("network"),
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
        kind_is_video=np.array([int(kind.item == "resume") for kind in kinds]),
        match_cap=features.match_cap / 100.0,
        reach_scale=features.reach_scale,
        hand_scale=features.hand_scale,
        history_items=file.user.history_items,
        creator_window=file.limits.creator_window,
        novelty_after_skills=file.limits.novelty_after_skills,
        exploration_size=file.exploration.size,
        exact_up_to_videos=file.pruning.exact_up_to_videos,
        prune_skills=file.pruning.skills,
        entries_per_skill=file.pruning.entries_per_skill,
        entries_per_pair=file.pruning.entries_per_pair,
        static_entries=file.pruning.static_entries,
    )
