"""The policy file's format: every weight, window and size that decides what a feed holds."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recommendation_service.mappings.answers import FEED_ITEMS
from recommendation_service.model.columns import ATTRIBUTE_PLACES, SKILL_PLACES
from recommendation_service.model.features import (
    COLLABORATIVE_NAMES,
    FEATURE_NAMES,
    FEATURES,
    MOST_FEATURES,
    STATIC_TERMS,
    USER_TERMS,
)
from recommendation_service.model.kinds import ENDPOINTS, KINDS, MOST_KINDS, kind_name

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")]
Pattern = Annotated[list[Name], Field(min_length=1, max_length=100)]
ItemColumn = Literal[
    "age_days", "views", "average", "ratings", "matches", "saves", "exhibitions", "attribute_count", "rarity"
]
UserTerm = Literal["similarity", "match", "network", "collaborative"]


ITS_OWN_POOL = ("collaborative",)  # terms that bring candidates from beside a kind's ordering


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


class AddedFeature(_Section):
    """A feature beside the 18: a column of the catalog over ``scale``, as it is or times a term of the user."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    column: ItemColumn
    scale: Positive = 1.0
    times: UserTerm | None = None

    @property
    def of_item(self) -> str:
        """What a catalog has of it, in words by which two are compared."""
        return f"{self.name} = {self.column} / {self.scale!r}"


class ClosedForm(_Section):
    """SLIST's hyperparameters (Choi et al. 2021, section 3.4), for catalogs of not too many items."""

    most_items: Annotated[int, Field(ge=0, le=20_000)]
    regularization: Positive
    whole_history: Annotated[float, Field(ge=0, le=1)]
    position_items: Positive
    age_days: Positive | None = None  # as it was before there was such a weight


class Neighbourhood(_Section):
    """Of nearest neighbours by what people take close to each other, for larger catalogs."""

    window_items: Annotated[int, Field(ge=1, le=100)]
    position_items: Positive
    backward: Annotated[float, Field(ge=0, le=1)]
    shrink: NotNegative
    scale: Positive


class Collaborative(_Section):
    """What people take together: two features, and two terms of the hand-set sums. Without the section, neither."""

    least_interactions: Count
    most_interactions: Count
    most_items_of_user: Annotated[int, Field(ge=2, le=1000)]
    neighbours: Annotated[int, Field(ge=1, le=1000)]
    latest_items: Annotated[int, Field(ge=1, le=200)]
    recency_items: Positive
    half_lives_days: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=20)]
    closed_form: ClosedForm
    neighbourhood: Neighbourhood


class Measuring(_Section):
    """What a build measures of the data, where nobody tuned a policy to them (catalog/measuring.py). Without the
    section nothing is."""

    windows: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=10)]
    window: Annotated[
        float, Field(gt=0, le=1)
    ]  # shares of what people did: from each of those on, so much is looked for
    half_lives_days: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=20)]
    plain_half_lives_days: Annotated[
        tuple[Positive, ...], Field(min_length=1, max_length=20)
    ]  # what others have to beat
    untold_half_life_days: Positive  # where too few people tell
    evergreen: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(max_length=10)]
    together: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=20)]  # others have to beat the least
    closeness: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=20)]  # likewise
    untold_weights: tuple[Positive, Positive]  # of the two, where nobody tells
    weights_cut: Annotated[float, Field(gt=0, lt=1)]
    profile: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=20)]  # closeness by what people say
    untold_profile: NotNegative
    profile_cut: Annotated[float, Field(gt=0, lt=1)]
    least_people: Count
    creators_each: Positive | None = (
        None  # for each place of the limit's window so many, or it is shorter; None: it stays
    )


class UserConstants(_Section):
    history_items: Count


class Limits(_Section):
    creator_window: Count
    novelty_after_skills: Count


class Exploration(_Section):
    """``size``: of the sample of what is in no pool. ``floor``: share of the draws from a pool that are even, so that
    nothing a slot could hold has less than that over their number."""

    size: Count
    floor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0


class Pruning(_Section):
    exact_up_to_videos: Count
    skills: Count
    entries_per_skill: Count
    entries_per_pair: Annotated[int, Field(ge=0)]
    static_entries: Count


class Prior(_Section):
    precision: Positive
    hand_feature_mean: Finite


class Terms(_Section):
    fresh_days: NotNegative
    boost: Positive
    boost_days: NotNegative
    days_left_of: Positive
    share_left_of: Positive


class Kind(_Section):
    """A slot kind: which items, the hand-set sum, and how one is drawn."""

    number: int | None = None  # in records; of one of model/kinds.py none is said
    label: str
    item: Name | None = None  # the item type; None: all of them
    pool: Annotated[int, Field(ge=1, le=1000)]
    alpha: NotNegative
    temperature: Positive
    gate: bool = False
    max_age_days: NotNegative | None = None
    weights: dict[str, Finite]


class PolicyFile(_Section):
    """The policy file, validated whole: every problem is named at once."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    cuts: Cuts
    features: FeatureConstants
    added_features: Annotated[tuple[AddedFeature, ...], Field(max_length=MOST_FEATURES - FEATURES)] = ()
    collaborative: Collaborative | None = None
    measuring: Measuring | None = None
    user: UserConstants
    limits: Limits
    exploration: Exploration
    pruning: Pruning
    prior: Prior
    feeds: Annotated[dict[Name, Pattern], Field(min_length=1, max_length=64)]  # kinds of the slots, over and over
    terms: Terms
    kinds: Annotated[dict[Name, Kind], Field(min_length=1)]  # what is left out, no pattern may name

    @property
    def feature_names(self) -> tuple[str, ...]:
        collaborative = COLLABORATIVE_NAMES if self.collaborative else ()
        return (*FEATURE_NAMES, *collaborative, *(added.name for added in self.added_features))

    @property
    def kinds_in_use(self) -> dict[str, Kind]:
        """By name, in the order of their numbers."""
        return dict(sorted(self.kinds.items(), key=lambda named: _number_of(*named)))

    @property
    def kind_names(self) -> tuple[str, ...]:
        """(K,) by number, of those that the policy leaves out, too."""
        own = {_number_of(name, kind): name for name, kind in self.kinds.items()}
        return tuple(own.get(number, kind_name(number)) for number in range(max(len(KINDS), max(own) + 1)))

    def rows_of_kinds(self, rows_of_type: Mapping[str, tuple[int, int]]) -> list[tuple[int, int]]:
        """(K,) among which rows of a catalog each kind's items are, the first and the one after the last: those of its
        type, or all. ``rows_of_type``: the same by item type."""
        everything = (0, max((end for _, end in rows_of_type.values()), default=0))

        def rows(kind: Kind | None) -> tuple[int, int]:
            if kind is None:
                return 0, 0
            return everything if kind.item is None else rows_of_type.get(kind.item, (0, 0))

        return [rows(self.kinds.get(name)) for name in self.kind_names]

    def kind(self, name: str) -> Kind:
        """Raises KeyError where the policy leaves it out."""
        return self.kinds_in_use[name]


def _number_of(name: str, kind: Kind) -> int:
    return KINDS.index(name) if kind.number is None else kind.number


def contradictions(content: dict[str, Any]) -> list[str]:
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
            elif term in COLLABORATIVE_NAMES and "collaborative" not in content:
                problems.append(f"kinds.{name}.weights.{term}: needs a section collaborative, which is missing")
            elif term in ITS_OWN_POOL and (kind.get("gate") or kind.get("max_age_days") is not None):
                problems.append(f"kinds.{name}.weights.{term}: a kind with it can have neither gate nor max_age_days")
    if isinstance(kinds, dict) and isinstance(feeds, dict) and any(name in KINDS for name in kinds):
        problems += [f"feeds.{name}: is missing" for name in ENDPOINTS if name not in feeds]
    problems += _number_problems(kinds) if isinstance(kinds, dict) else []
    for endpoint, item in FEED_ITEMS.items():
        pattern = feeds.get(endpoint) if isinstance(feeds, dict) else None
        for name in pattern if isinstance(pattern, list) else ():
            kind = kinds.get(name) if isinstance(kinds, dict) and isinstance(name, str) else None
            if isinstance(kind, dict) and kind.get("item") not in (None, item):
                problems.append(f"feeds.{endpoint}: holds only {item}s, but names {name}")
    if isinstance(kinds, dict) and isinstance(feeds, dict):
        for endpoint, pattern in feeds.items():
            named = [name for name in pattern if isinstance(name, str)] if isinstance(pattern, list) else []
            left_out = [name for name in named if name not in kinds]
            problems += [f"feeds.{endpoint}: names {name}, which kinds leaves out" for name in left_out]
    added = content.get("added_features")
    added = [one for one in added if isinstance(one, dict)] if isinstance(added, list) else []
    names = [one.get("name") for one in added]
    for place, name in enumerate(names):
        if name in (*FEATURE_NAMES, *COLLABORATIVE_NAMES) or name in names[:place]:
            problems.append(f"added_features.{place}.name: there is a feature {name} already")
        if added[place].get("times") == "collaborative" and "collaborative" not in content:
            problems.append(f"added_features.{place}.times: needs a section collaborative, which is missing")
    return list(dict.fromkeys(problems))


def _number_problems(kinds: dict[str, Any]) -> list[str]:
    """Numbers stand in records: they are said once and for all, and each is one kind's."""
    problems = []
    taken: dict[int, str] = {}
    for name, kind in kinds.items():
        number = kind.get("number") if isinstance(kind, dict) else None
        if name in KINDS:
            if number is not None:
                problems.append(f"kinds.{name}.number: is {KINDS.index(name)} for good, and not to be said")
        elif type(number) is not int or not len(KINDS) <= number < MOST_KINDS:
            problems.append(f"kinds.{name}.number: must be from {len(KINDS)} to {MOST_KINDS - 1}, but is {number}")
        elif number in taken:
            problems.append(f"kinds.{name}.number: {number} is {taken[number]}'s already")
        else:
            taken[number] = name
    return problems
