"""Lines of a decision log: what is read, what is refused and by which reason, and that nothing ends the reading."""

import json
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.dsjson import lines
from recommendation_service.dsjson.decision import Decision, Form
from recommendation_service.dsjson.log_file import DecisionLog
from recommendation_service.dsjson.reading import Costs, decision_of
from recommendation_service.dsjson.refusals import Reason, Refused
from tests.support.decision_logs import as_lines, single_slot_log, slates_log, two_slot_log, write_log

Event = dict[str, Any]
LOGS = {"single": single_slot_log, "ccb": two_slot_log, "slates": slates_log}


def _read(event: object, costs: Costs = Costs.ASK) -> Decision:
    return decision_of(json.dumps(event).encode(), costs)


def _reason(event: object, costs: Costs = Costs.ASK) -> Reason:
    with pytest.raises(Refused) as refused:
        _read(event, costs)
    return refused.value.reason


def _changed(form: str, change: Callable[[Event], object]) -> Event:
    event = deepcopy(LOGS[form]()[0])
    change(event)
    return event


def _set(event: Event, **values: Any) -> None:
    event.update(values)


def test_a_line_of_each_form_is_read() -> None:
    single, ccb, slates = (_read(LOGS[form]()[0]) for form in LOGS)
    assert (single.form, single.slots[0].shown, single.slots[0].propensity, single.rewards) == (
        Form.SINGLE,
        1,
        0.5,
        [1.0],
    )
    assert [(slot.shown, list(slot.free), slot.propensity) for slot in ccb.slots] == [
        (2, [0, 1, 2], 0.5),
        (0, [0, 1], 0.8),
    ]
    assert ccb.rewards == [1.0, 0.0]
    assert [slates.action_of(number, slot.shown) for number, slot in enumerate(slates.slots)] == [0, 3]


@pytest.mark.parametrize("form", LOGS)
def test_the_order_of_keys_means_nothing(form: str) -> None:
    event = LOGS[form]()[0]
    assert _read(dict(sorted(event.items()))) == _read(event) == _read(dict(reversed(event.items())))


@pytest.mark.parametrize(
    ("form", "change", "reason"),
    [
        ("single", lambda e: _set(e, _label_probability=1.5), Reason.PROBABILITY),
        ("single", lambda e: _set(e, _label_probability=0), Reason.PROBABILITY),
        ("single", lambda e: _set(e, _label_probability=-0.5), Reason.PROBABILITY),
        ("single", lambda e: _set(e, _label_probability="0.5"), Reason.PROBABILITY),
        ("single", lambda e: e.pop("_label_probability"), Reason.PROBABILITY),
        ("single", lambda e: _set(e, pdrop=1), Reason.DROPPED),
        ("single", lambda e: _set(e, pdrop=-0.1), Reason.DROPPED),
        ("single", lambda e: _set(e, pdrop="0"), Reason.DROPPED),
        ("single", lambda e: _set(e, _labelIndex=3), Reason.INDEX),
        ("single", lambda e: _set(e, _labelIndex=-1), Reason.INDEX),
        ("single", lambda e: _set(e, _labelIndex=True), Reason.INDEX),
        ("single", lambda e: _set(e, _label_Action=0), Reason.INDEX),
        ("single", lambda e: [e.pop(name) for name in ("_labelIndex", "_label_Action", "a")], Reason.INDEX),
        ("single", lambda e: _set(e, _labelIndex=0), Reason.CONTRADICTION),
        ("single", lambda e: _set(e, _label_Action=1), Reason.CONTRADICTION),
        ("single", lambda e: _set(e, a=[1, 2, 3]), Reason.CONTRADICTION),
        ("single", lambda e: _set(e, p=[0.4, 0.3, 0.3]), Reason.CONTRADICTION),
        ("single", lambda e: _set(e, a=[2, 1, 1]), Reason.RANKING),
        ("single", lambda e: _set(e, a=[1, 0, 2]), Reason.RANKING),
        ("single", lambda e: _set(e, p=[0.5, 0.5]), Reason.RANKING),
        ("single", lambda e: _set(e, _label_cost="NaN"), Reason.COST),
        ("single", lambda e: _set(e, _label_cost="-1.0"), Reason.COST),
        ("single", lambda e: _set(e, _label_cost=True), Reason.COST),
        ("single", lambda e: _set(e, _label_cost=10**400), Reason.COST),
        ("single", lambda e: _set(e, _label_cost=-1e200), Reason.TOO_MUCH),
        ("single", lambda e: _set(e, _label_cost=None), Reason.NO_REWARD),
        ("single", lambda e: e.pop("_label_cost"), Reason.NO_REWARD),
        ("single", lambda e: _set(e, _skipLearn=True), Reason.NOT_ACTIVATED),
        ("single", lambda e: _set(e, _deferred=True), Reason.NOT_ACTIVATED),
        ("single", lambda e: _set(e["c"], _multi=[]), Reason.ACTIONS),
        ("single", lambda e: e.pop("c"), Reason.ACTIONS),
        ("single", lambda e: _set(e, _original_label_cost=-0.3), Reason.APPRENTICE),
        ("ccb", lambda e: e["_outcomes"].pop(), Reason.OUTCOMES),
        ("ccb", lambda e: e.pop("_outcomes"), Reason.OUTCOMES),
        ("ccb", lambda e: e["_outcomes"].append(e["_outcomes"][0]), Reason.OUTCOMES),
        ("ccb", lambda e: e["c"]["_slots"].extend([{}, {}]), Reason.OUTCOMES),
        ("ccb", lambda e: e["_outcomes"][0]["_p"].pop(), Reason.OUTCOMES),
        ("ccb", lambda e: e["_outcomes"][1].pop("_a"), Reason.OUTCOMES),
        ("ccb", lambda e: _set(e["_outcomes"][1], _a=[2, 0]), Reason.TWICE),
        ("ccb", lambda e: _set(e["_outcomes"][1], _a=[0, 0]), Reason.TWICE),
        ("ccb", lambda e: _set(e["_outcomes"][1], _a=[3, 0]), Reason.INDEX),
        ("ccb", lambda e: _set(e["c"]["_slots"][1], _inc=[1, 2]), Reason.INDEX),
        ("ccb", lambda e: _set(e["_outcomes"][1], _p=[1.2, 0.2]), Reason.PROBABILITY),
        ("ccb", lambda e: e["_outcomes"][1].pop("_label_cost"), Reason.COST),
        ("ccb", lambda e: _set(e, _outcomes=[{}, {}]), Reason.NO_REWARD),
        ("slates", lambda e: e.pop("_label_cost"), Reason.NO_REWARD),
        ("slates", lambda e: e["c"]["_multi"][0].pop("_slot_id"), Reason.ACTIONS),
        ("slates", lambda e: _set(e["c"]["_multi"][0], _slot_id=2), Reason.ACTIONS),
        ("slates", lambda e: _set(e["_outcomes"][0], _label_cost=-1), Reason.FORM),
        ("slates", lambda e: _set(e["_outcomes"][0], _a=[2, 0]), Reason.INDEX),
    ],
)
def test_a_line_that_says_too_little_or_too_much_is_refused(
    form: str, change: Callable[[Event], object], reason: Reason
) -> None:
    assert _reason(_changed(form, change)) == reason


def test_what_is_no_object_is_refused() -> None:
    whole = as_lines(single_slot_log())[0]
    for line in (whole[:-40], b"17", b"[]", b"\xff\xfe", b'{"a":NaN}', b"[" * 100_000, whole + whole):
        with pytest.raises(Refused) as refused:
            decision_of(line)
        assert refused.value.reason is Reason.NOT_JSON


def test_the_shown_action_is_known_by_any_of_its_three_names() -> None:
    for lost in (("_labelIndex",), ("_labelIndex", "_label_Action"), ("a", "_label_Action"), ("a", "p")):
        event = _changed("single", lambda e, lost=lost: [e.pop(name) for name in lost])
        assert _read(event).slots[0].shown == 1


def test_a_probability_into_which_dropping_was_multiplied_is_corrected_once() -> None:
    event = _changed("single", lambda e: _set(e, _label_probability=0.25, pdrop=0.5))
    assert (_read(event).slots[0].propensity, _read(event).weight) == (0.5, 2.0)
    right = _changed("single", lambda e: _set(e, pdrop=0.5))
    assert (_read(right).slots[0].propensity, _read(right).weight) == (0.5, 2.0)


def test_of_apprentice_mode_the_caller_says_which_cost_is_meant() -> None:
    event = _changed("single", lambda e: _set(e, _original_label_cost=-0.25))
    assert _read(event, Costs.LABEL).rewards == [1.0]
    assert _read(event, Costs.ORIGINAL).rewards == [0.25]
    alike = _changed("single", lambda e: _set(e, _original_label_cost=-1.0))
    assert _read(alike).rewards == [1.0]
    slot = _changed("ccb", lambda e: _set(e["_outcomes"][0], _original_label_cost=-0.25))
    assert (_reason(slot), _read(slot, Costs.ORIGINAL).rewards) == (Reason.APPRENTICE, [0.25, 0.0])


def test_a_log_is_read_over_its_bad_lines_which_are_named_by_number(tmp_path: Path) -> None:
    good = as_lines(single_slot_log())
    path = write_log(
        tmp_path / "log.dsjson",
        [
            b"\xef\xbb\xbf" + good[0],
            b"",
            good[1][:50],
            b"  " + good[1] + b"\r",
            as_lines(two_slot_log())[0],
            good[2],
            good[2],
        ],
    )
    log, named = DecisionLog(path), []
    decisions = list(log.decisions(refused=named.append))
    assert [decision.event_id for decision in decisions] == ["s1", "s2", "s3", "s3"]
    assert [(line.number, line.reason) for line in named] == [(3, Reason.NOT_JSON), (5, Reason.FORM)]
    assert log.refusals.refused == 2
    assert log.repeated() == [7]
    assert log.form is Form.SINGLE


def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 1_000)
    good = as_lines(single_slot_log())
    path = write_log(tmp_path / "log.dsjson", [good[0], b"x" * 3_000_000, good[1], b"y" * 1_001])
    log, behind = DecisionLog(path), []
    assert len(list(log.decisions(read=behind.append))) == 2
    assert [(line.number, line.reason) for line in log.refusals.named] == [(2, Reason.TOO_LONG), (4, Reason.TOO_LONG)]
    assert sum(behind) == path.stat().st_size


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    event = single_slot_log()[0]
    event["c"]["words"] = {f"word{number}": 1.5 for number in range(1_000)}
    line = as_lines([event])[0]
    path = tmp_path / "log.dsjson"

    def peak(count: int) -> int:
        write_log(path, [line] * count)
        tracemalloc.start()
        try:
            assert sum(1 for _ in DecisionLog(path).decisions()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    little, much = peak(20), peak(400)
    assert path.stat().st_size > 5_000_000
    assert much < little + 100_000


_OTHERS = ("_multi", "_slots", "_inc", "_slot_id", "_skipLearn", "_original_label_cost")
_NAMES = st.sampled_from([*single_slot_log()[1], *two_slot_log()[0], *two_slot_log()[0]["_outcomes"][0], *_OTHERS])
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([0, 1, 0.5, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)


def _places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, child in children for place in _places(child, (*path, name)))]


@given(st.sampled_from(list(LOGS)), st.data())
@settings(max_examples=200, deadline=None)
def test_no_line_whatever_it_holds_raises_anything_but_refused(form: str, data: st.DataObject) -> None:
    event = LOGS[form]()[0]
    for _ in range(data.draw(st.integers(0, 3))):
        path = data.draw(st.sampled_from(_places(event)[1:] or [("c",)]))
        inner = event
        for name in path[:-1]:
            inner = inner[name]
        if data.draw(st.booleans()) or not isinstance(inner, dict):
            inner[path[-1]] = data.draw(_ANYTHING)
        else:
            inner[data.draw(_NAMES)] = data.draw(_ANYTHING)
    line = json.dumps(event).encode()[: data.draw(st.none() | st.integers(0, 400))]
    for costs in Costs:
        try:
            decision = decision_of(line, costs)
        except Refused:
            continue
        assert all(0 < slot.propensity <= 1 and slot.shown in slot.free for slot in decision.slots)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_refused(line: bytes) -> None:
    with pytest.raises(Refused):
        decision_of(line)
