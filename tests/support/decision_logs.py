"""Decision logs for tests: small ones whose figures are known, larger ones drawn, and what Vowpal Wabbit says."""

import json
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

_CONTEXT = {
    "user": {"age": 31},
    "_multi": [{"item": {"kind": "song"}}, {"item": {"kind": "talk"}}, {"item": {"kind": "film"}}],
}
_TWO_SLOTS = _CONTEXT | {"_slots": [{"place": {"n": "top"}}, {"place": {"n": "below"}}]}


def _single(number: int, cost: float, propensities: list[float], ranking: list[int], **others: float) -> dict[str, Any]:
    return {
        "_label_cost": cost,
        "_label_probability": propensities[0],
        "_label_Action": ranking[0],
        "_labelIndex": ranking[0] - 1,
        "Timestamp": f"2026-03-01T08:00:0{number}.000000Z",
        "Version": "1",
        "EventId": f"s{number}",
        "a": ranking,
        "c": deepcopy(_CONTEXT),
        "p": propensities,
        **others,
    }


def _ccb(number: int, *outcomes: tuple[float, list[int], list[float]]) -> dict[str, Any]:
    return {
        "Timestamp": f"2026-03-01T09:00:0{number}.000000Z",
        "Version": "1",
        "EventId": f"t{number}",
        "c": deepcopy(_TWO_SLOTS),
        "_outcomes": [
            {"_label_cost": cost, "_id": name, "_a": actions, "_p": propensities}
            for name, (cost, actions, propensities) in zip(("top", "below"), outcomes, strict=True)
        ],
    }


def single_slot_log() -> list[dict[str, Any]]:
    """Weights 1, 2, 1. Even policy: 0.21875, self-normalised 0.233333; always index 0, 1, 2: 0, 0.5, 0.15625."""
    return [
        _single(1, -1, [0.5, 0.25, 0.25], [2, 1, 3]),
        _single(2, 0, [0.25, 0.5, 0.25], [1, 2, 3], pdrop=0.5),
        _single(3, -0.5, [0.8, 0.1, 0.1], [3, 1, 2]),
    ]


def two_slot_log() -> list[dict[str, Any]]:
    """Even policy: 0.333333 and by product 0.833333 (0.625 by its own ratio); always 0, then 1: 0 and 5 (1.25)."""
    return [
        _ccb(1, (-1, [2, 0, 1], [0.5, 0.25, 0.25]), (0, [0, 1], [0.8, 0.2])),
        _ccb(2, (0, [0, 1, 2], [0.25, 0.25, 0.5]), (-1, [1, 2], [0.4, 0.6])),
    ]


def slates_log() -> list[dict[str, Any]]:
    """Even policy: 0.25."""
    actions = [{"_slot_id": slot, "item": {"kind": f"k{slot}{n}"}} for slot in (0, 1) for n in (0, 1)]
    return [
        {
            "_label_cost": -1.0,
            "Timestamp": "2026-03-01T10:00:01.000000Z",
            "Version": "1",
            "EventId": "u1",
            "c": {
                "user": {"age": 31},
                "_multi": actions,
                "_slots": [{"place": {"n": "top"}}, {"place": {"n": "below"}}],
            },
            "_outcomes": [{"_a": [0, 1], "_p": [0.8, 0.2]}, {"_a": [1, 0], "_p": [0.8, 0.2]}],
        }
    ]


def drawn_log(events: int, seed: int = 0, *, tastes: bool = True) -> list[dict[str, Any]]:
    """Single slots of four actions, drawn by shares that differ. With ``tastes`` each of three groups of people has an
    action that brings .6 and the others bring .1; without all bring .25 to everybody."""
    rng = np.random.default_rng(seed)
    log = []
    for number in range(events):
        group, shares = int(rng.integers(3)), rng.dirichlet([2.0] * 4)
        shown = int(rng.choice(4, p=shares))
        mean = (0.6 if shown == group else 0.1) if tastes else 0.25
        ranking = [shown, *(action for action in range(4) if action != shown)]
        event = _single(1, -float(rng.random() < mean), shares[ranking].tolist(), [action + 1 for action in ranking])
        people = {"user": {"age": int(rng.integers(15, 80)), "group": f"g{group}"}}
        actions = [{"item": {"kind": f"k{action}", "length": float(rng.random())}} for action in range(4)]
        log.append(event | {"EventId": f"d{number}", "c": people | {"_multi": actions}})
    return log


def as_lines(log: Iterable[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(event, separators=(",", ":")).encode() for event in log]


def write_log(path: Path, lines: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def loss_by_vowpal_wabbit(path: Path, arguments: str) -> tuple[float, float]:
    """Its average loss, and the weight of what it counts. For a fixed policy ``-l 0``, never ``-t``: with that, CCB and
    slates draw actions of their own."""
    import vowpalwabbit

    workspace = vowpalwabbit.Workspace(f"--dsjson -d {path} -l 0 --quiet {arguments}")
    loss, weight = workspace.get_sum_loss(), workspace.get_weighted_examples()
    workspace.finish()
    return loss / weight, weight
