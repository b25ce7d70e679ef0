"""A policy as the kernels read it."""

from typing import NamedTuple

from recommendation_service.model.columns import Float64, Int64


class PolicyArrays(NamedTuple):
    """What the kernels read. K kinds, d features, E of them added by the file; all float64 or int64."""

    theta: Float64  # (K, d) posterior mean
    precision_root: Float64  # (K, d, d) (R⁻¹)ᵀ, upper triangular, with A = R Rᵀ, so xᵀA⁻¹x = ‖R⁻¹x‖²
    alpha: Float64  # (K,)
    temperature: Float64  # (K,)
    pool: Int64  # (K,)
    weight_similarity: Float64  # (K,)
    weight_match: Float64  # (K,)
    weight_network: Float64  # (K,)
    weight_collaborative: Float64  # (K,)
    latest_weight: (
        Float64  # (L,) what a user's latest item counts, the one before, ...; (0,): no collaborative features
    )
    added_term: (
        Int64  # (E,) by what an added feature is multiplied: 0 nothing, else 1 more than the place in USER_TERMS
    )
    match_weight: Float64  # (4,) of a shared skill, knowledge, tool, language, on feature 6's 0–1 scale
    similarity: Float64  # (4,) cosine, share, without history, without skills
    pattern: Int64  # (feeds, longest pattern) kinds of the slots
    pattern_length: Int64  # (feeds,)
    first_added: int  # place of the first added feature: 18, or 20 after the collaborative ones
    match_cap: float  # on the same scale as match_weight
    profile_weight: float  # of closeness to what users say of themselves, beside that to what they did
    reach_scale: float
    hand_scale: float
    history_items: int
    creator_window: int
    novelty_after_skills: int
    exploration_size: int
    floor: float  # share of the draws from a pool that are even
    exact_up_to_videos: int
    prune_skills: int
    entries_per_skill: int
    entries_per_pair: int
    static_entries: int
