"""A policy weighed on what this service recorded: by its propensities as a shadow, or by decisions."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.cascade import Draws, model_rewards
from recommendation_service.estimates.logged import LoggedFeeds
from recommendation_service.evaluation.recorded import Advance
from recommendation_service.evaluation.recorded_columns import Recorded
from recommendation_service.log.decisions import DecisionRecord, read_decisions
from recommendation_service.log.records import endpoint_name
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.decisions import Decision, draws_under, propensities_under, unpack_decision

SHADOW, DECISIONS = "shadow", "decisions"
# Decisions between two steps of the bar.
_STEP = 200


class Evidence(NamedTuple):
    feeds: LoggedFeeds
    by: str  # SHADOW or DECISIONS
    left_out: dict[str, int]  # feeds or decisions, by the reason


def by_shadow(recorded: Recorded, endpoint: str | None) -> Evidence:
    """Of the feeds beside which the policy was loaded."""
    was = ~np.isnan(recorded.shadow).all(axis=1) & _of_endpoint(recorded, endpoint)
    impossible = was & (recorded.propensities <= 0).any(axis=1)  # less than float32 can say
    has = was & ~impossible
    rewards, logged, target = (table[has] for table in (recorded.rewards, recorded.propensities, recorded.shadow))
    feeds = LoggedFeeds(rewards, logged, target, recorded.users[has], np.ones(int(has.sum())))
    return Evidence(feeds, SHADOW, _counted({"were served with a probability of 0": int(impossible.sum())}))


def by_decisions(
    recorded: Recorded,
    folder: Path,
    policy: Policy,
    pools_of: Callable[[str], str | None],
    endpoint: str | None,
    advance: Advance,
) -> Evidence:
    """``folder``: of decisions; ``pools_of``: a policy version's pools_digest, None: nobody knows it any more.

    Raises OSError.
    """
    left_out: dict[str, int] = {}
    wanted: list[DecisionRecord] = []
    unread: list[None] = []
    for record in read_decisions(folder, lambda: unread.append(None)):
        reason = _problem(record, policy, pools_of)
        if reason is not None:
            left_out[reason] = left_out.get(reason, 0) + 1
        elif endpoint is None or endpoint_name(record.endpoint) == endpoint:
            wanted.append(record)
    requests = np.frombuffer(b"".join(record.request_id for record in wanted), np.uint64).reshape(-1, 2)
    places = recorded.place_of(requests)
    _, first = np.unique(places, return_index=True)
    order = first[places[first] >= 0]  # by place: as feeds were made
    left_out["of a feed that is not in the database, or not in these days"] = int(np.count_nonzero(places < 0))
    slots = recorded.rewards.shape[1]
    logged, target = np.full((len(order), slots), np.nan), np.full((len(order), slots), np.nan)
    draws = Draws(len(order), slots, len(policy.feature_names))
    is_read = np.ones(len(order), np.bool_)
    for row, at in enumerate(order.tolist()):
        if row % _STEP == 0:
            advance("Weighing decisions", row / len(order))
        try:
            decision = unpack_decision(wanted[at].packed)
            if len(decision.slots) != np.count_nonzero(~np.isnan(recorded.rewards[places[at]])):
                raise ValueError("its feed has other slots")
            logged[row, : len(decision.slots)] = [slot.propensity for slot in decision.slots]
            target[row, : len(decision.slots)] = propensities_under(decision, policy.arrays)
            _note_draws(draws, row, decision, policy)
        except ValueError:
            is_read[row] = False
    left_out["of another release"] = int(np.count_nonzero(~is_read)) + len(unread)
    kept = places[order][is_read]
    rewards, users = recorded.rewards[kept].astype(np.float64), recorded.users[kept]
    modelled = model_rewards(rewards, users, draws.of(is_read)) if len(kept) else None
    feeds = LoggedFeeds(rewards, logged[is_read], target[is_read], users, np.ones(len(kept)), modelled)
    return Evidence(feeds, DECISIONS, _counted(left_out))


def _problem(record: DecisionRecord, policy: Policy, pools_of: Callable[[str], str | None]) -> str | None:
    if not record.drawn:
        return "asked for with explain, so not by chance"
    pools = pools_of(record.policy_version)
    if pools is None:
        return f"of policy {record.policy_version}, of which nobody knows the pools any more"
    if pools != policy.pools_digest:
        return f"of policy {record.policy_version}, which draws from other pools"
    return None


def _note_draws(draws: Draws, row: int, decision: Decision, policy: Policy) -> None:
    for place, (slot, shares) in enumerate(zip(decision.slots, draws_under(decision, policy.arrays), strict=True)):
        if slot.chosen >= 0:
            X = decision.pools[slot.pool].X
            if X.shape[1] != draws.features:
                raise ValueError("it has other features")
            draws.note(row, place, slot.pool, X[slot.chosen], shares @ X)


def _of_endpoint(recorded: Recorded, endpoint: str | None) -> npt.NDArray[np.bool_]:
    if endpoint is None:
        return np.ones(len(recorded.name), np.bool_)
    return np.asarray(recorded.name == (recorded.names.index(endpoint) if endpoint in recorded.names else -1))


def _counted(left_out: dict[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in left_out.items() if count}
