"""This service's decisions as those of a log of CCB: so that Vowpal Wabbit can weigh and learn from them.

A slot's ``_inc`` are the candidates that its pool had left, so whoever reads it draws from what was drawn from. What
was drawn without regard to scores (exploration, and what was seen before) is no choice of a policy: such a slot has one
action, which is certain. What an editor pinned is left out.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from recommendation_service.dsjson.decision import Decision, Features, Form, Slot
from recommendation_service.model.features import HAND_SET, names_of
from recommendation_service.model.item_keys import unpack
from recommendation_service.model.kinds import PINNED
from recommendation_service.model.words import Words
from recommendation_service.ranking.decisions import DecidedSlot, recorded_draws
from recommendation_service.ranking.decisions import Decision as Recorded


def own_decision(
    request_id: str,
    happened_ms: int,
    endpoint: str,
    recorded: Recorded,
    rewards: Sequence[float],
    words: Words,
    id_of: Callable[[int], int | str | None],
) -> Decision:
    """``rewards``: what each slot brought. ``words``: of the types and kinds; ``id_of``: of an item's key the id as the
    operator has it, None where nobody knows it any more: such an action bears no tag."""
    places = {key: place for place, key in enumerate(recorded.items.tolist())}
    for slot in recorded.slots:
        places.setdefault(slot.item, len(places))
    slots, described, brought = [], [], []
    taken: set[int] = set()
    for number, (slot, draws) in enumerate(zip(recorded.slots, recorded_draws(recorded), strict=True)):
        if slot.pool == PINNED:  # an editor's choice is no decision
            continue
        brought.append(rewards[number])
        filled = _slot(slot, draws, recorded, places[slot.item], taken)
        taken.add(filled.shown)
        slots.append(filled)
        place = {"kind": words.kind_name(slot.kind), "position": float(number + 1)}
        described.append({"_inc": list(filled.free), "slot": place})
    return Decision(
        Form.CCB,
        request_id,
        datetime.fromtimestamp(happened_ms / 1000, UTC),
        slots,
        brought,
        0.0,
        {"feed": {"endpoint": endpoint}},
        _actions(recorded, list(places), words, id_of),
        described,
        (),
    )


def _slot(slot: DecidedSlot, draws: Any, recorded: Recorded, shown: int, taken: set[int]) -> Slot:
    if slot.chosen < 0:
        return Slot([shown], shown, 1.0, [shown], [1.0])
    members = recorded.pools[slot.pool].members
    shares = dict(zip(members.tolist(), draws.tolist(), strict=True))
    free = [place for place in members[slot.eligible].tolist() if place not in taken]
    others = [place for place in free if place != shown]
    return Slot(free, shown, slot.propensity, [shown, *others], [slot.propensity, *(shares[place] for place in others)])


def _actions(
    recorded: Recorded, keys: Sequence[int], words: Words, id_of: Callable[[int], int | str | None]
) -> list[Features]:
    """Features that are 0 are left out; the hand-set score is each kind's own. They were kept to six digits."""
    named: list[dict[str, float]] = [{} for _ in keys]
    hand_set: list[dict[str, float]] = [{} for _ in keys]
    for kind, pool in ((words.kind_name(number), pool) for number, pool in enumerate(recorded.pools)):
        names = names_of(pool.X.shape[1])
        for place, row in zip(pool.members.tolist(), pool.X.tolist(), strict=True):
            values = {name: float(f"{value:.6g}") for name, value in zip(names, row, strict=True)}
            hand_set[place][kind] = values.pop(names[HAND_SET])
            named[place] = {name: value for name, value in values.items() if value}
    actions: list[Features] = []
    for key, of_item, of_kinds in zip(keys, named, hand_set, strict=True):
        name, own = words.type_name(unpack(key)[0]), id_of(key)
        tag = {} if own is None else {"_tag": f"{name}:{own}"}
        actions.append(tag | {"item": {"type": name}, "is": of_item, "hand_set": of_kinds})
    return actions
