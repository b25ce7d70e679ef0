"""Values of policies on decision logs: known figures, Vowpal Wabbit's own, and that bad lines change none of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recommendation_service.dsjson.learner import FIRST, Learner
from recommendation_service.dsjson.log_file import DecisionLog
from recommendation_service.dsjson.policies import UnknownPolicy, policy_named
from recommendation_service.dsjson.reading import decision_of
from recommendation_service.dsjson.weighing import PolicyValue, Weighing
from tests.support.decision_logs import (
    as_lines,
    drawn_log,
    loss_by_vowpal_wabbit,
    single_slot_log,
    slates_log,
    two_slot_log,
    write_log,
)


def _values(path: Path, *policies: str) -> list[PolicyValue]:
    weighing = Weighing([policy_named(name) for name in policies])
    for decision in DecisionLog(path).decisions():
        weighing.add(decision)
    return weighing.values()


def _value(path: Path, policy: str) -> PolicyValue:
    return _values(path, policy)[0]


def _slots(value: PolicyValue) -> list[tuple[float, float]]:
    return [(slot.ips, slot.own_ratio) for slot in value.slots]


def test_single_slots_have_the_known_values(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.dsjson", as_lines(single_slot_log()))
    even, *always = _values(path, "even", "index:0", "index:1", "index:2")
    assert even.ips == pytest.approx(0.21875, abs=1e-12)
    assert even.snips == pytest.approx(0.7 / 3, abs=1e-12)
    assert [value.ips for value in always] == pytest.approx([0, 0.5, 0.15625])
    assert even.logged == pytest.approx(0.375)


def test_slots_of_ccb_have_the_known_values_by_product_and_by_their_own_ratio(tmp_path: Path) -> None:
    path = write_log(tmp_path / "b.dsjson", as_lines(two_slot_log()))
    even, always = _values(path, "even", "index:0,1")
    assert _slots(even) == [pytest.approx((1 / 3, 1 / 3)), pytest.approx((5 / 6, 0.625))]
    assert even.ips == pytest.approx(7 / 6)
    assert _slots(always) == [pytest.approx((0, 0)), pytest.approx((5, 1.25))]


def test_slates_have_the_known_value(tmp_path: Path) -> None:
    assert _value(write_log(tmp_path / "s.dsjson", as_lines(slates_log())), "even").ips == pytest.approx(0.25)


def test_vowpal_wabbit_says_the_same_of_single_slots(tmp_path: Path) -> None:
    for log in (single_slot_log(), drawn_log(300)):
        path = write_log(tmp_path / "a.dsjson", as_lines(log))
        loss, weight = loss_by_vowpal_wabbit(path, "--cb_explore_adf --epsilon 1.0")
        assert _value(path, "even").ips == pytest.approx(-loss, rel=1e-5)
        assert weight == sum(1 / (1 - event.get("pdrop", 0)) for event in log)


def test_vowpal_wabbit_says_the_same_of_the_first_slot_and_of_own_ratios(tmp_path: Path) -> None:
    path = write_log(tmp_path / "b.dsjson", as_lines(two_slot_log()))
    even = _value(path, "even")
    first, _ = loss_by_vowpal_wabbit(path, "--ccb_explore_adf --epsilon 1.0")
    own, _ = loss_by_vowpal_wabbit(path, "--ccb_explore_adf --epsilon 1.0 --all_slots_loss")
    assert even.slots[0].ips == pytest.approx(-first, rel=1e-5)
    assert even.own_ratio == pytest.approx(-own, rel=1e-5)
    assert own == pytest.approx(-0.958333, abs=1e-6)


def test_vowpal_wabbit_says_the_same_of_slates(tmp_path: Path) -> None:
    path = write_log(tmp_path / "s.dsjson", as_lines(slates_log()))
    loss, _ = loss_by_vowpal_wabbit(path, "--slates --epsilon 1.0")
    assert _value(path, "even").ips == pytest.approx(-loss, rel=1e-5)


def test_the_product_of_ratios_tells_the_truth_where_the_slots_own_does_not(tmp_path: Path) -> None:
    """Of two slots and two actions the second has what is left: a ratio of its own is always 1."""
    rng, log = np.random.default_rng(1), []
    for number in range(4_000):
        first = int(rng.random() < 0.2)
        event = two_slot_log()[0] | {"EventId": str(number)}
        event["c"]["_multi"].pop()
        event["_outcomes"] = [
            {"_label_cost": 0.0, "_a": [first, 1 - first], "_p": [0.2, 0.8] if first else [0.8, 0.2]},
            {"_label_cost": -float(first == 1), "_a": [1 - first], "_p": [1.0]},
        ]
        log.append(event)
    value = _value(write_log(tmp_path / "log.dsjson", as_lines(log)), "even")
    assert value.slots[1].ips == pytest.approx(0.5, abs=0.04)
    assert value.slots[1].own_ratio == pytest.approx(0.2, abs=0.03)
    assert value.estimate.lower < 0.5 - value.logged < value.estimate.upper
    assert value.verdict == "better"


def test_slates_that_are_many_have_an_interval(tmp_path: Path) -> None:
    rng, log = np.random.default_rng(2), []
    for number in range(2_000):
        shown = (rng.random(2) < 0.8).astype(int).tolist()
        event = slates_log()[0] | {"EventId": str(number), "_label_cost": -float(sum(shown))}
        event["_outcomes"] = [{"_a": [each, 1 - each], "_p": [0.8, 0.2] if each else [0.2, 0.8]} for each in shown]
        log.append(event)
    path = write_log(tmp_path / "log.dsjson", as_lines(log))
    even = _value(path, "even")
    assert even.estimate.lower < 1.0 - even.logged < even.estimate.upper
    assert even.verdict == "worse"
    assert even.ips == pytest.approx(-loss_by_vowpal_wabbit(path, "--slates --epsilon 1.0")[0], rel=1e-5)


def test_too_few_events_are_refused_and_say_so(tmp_path: Path) -> None:
    value = _value(write_log(tmp_path / "a.dsjson", as_lines(single_slot_log())), "even")
    assert value.verdict == "refused"
    assert "effective sample size of 1.8" in (value.refusal or "")


def test_policies_go_by_what_slots_have_free(tmp_path: Path) -> None:
    decision = decision_of(as_lines(two_slot_log())[0])
    assert policy_named("mix:0").weigher(decision) == [0.5, 0.8]
    assert policy_named("mix:1").weigher(decision) == policy_named("even").weigher(decision) == [1 / 3, 1 / 2]
    assert policy_named("greedy").weigher(decision) == [1.0, 1.0]
    assert policy_named("greedy:.5").weigher(decision) == pytest.approx([0.5 + 0.5 / 3, 0.75])
    assert policy_named("index:2").weigher(decision) == [1.0, 1.0]  # then the first that is free
    assert policy_named("index:2,2").weigher(decision) == [1.0, 1.0]  # which is not free any more
    assert policy_named("index:1,0").weigher(decision) == [0.0, 1.0]


@pytest.mark.parametrize("name", ["", "evn", "index", "index:", "index:-1", "index:x", "mix", "mix:2", "greedy:nan"])
def test_an_unknown_policy_says_what_there_is(name: str) -> None:
    with pytest.raises(UnknownPolicy, match=r"index:K|counted from 0|from 0 to 1"):
        policy_named(name)


def test_greedy_refuses_a_log_without_the_probabilities_of_all_actions(tmp_path: Path) -> None:
    log = single_slot_log()
    del log[1]["p"]
    greedy, even = _values(write_log(tmp_path / "a.dsjson", as_lines(log)), "greedy", "even")
    assert (greedy.verdict, greedy.slots) == ("refused", ())
    assert even.ips == pytest.approx(0.21875)


def test_our_learner_finds_what_each_group_likes(tmp_path: Path) -> None:
    learner, even = _values(write_log(tmp_path / "log.dsjson", as_lines(drawn_log(1_500))), "learner", "even")
    assert learner.verdict == "better"
    assert learner.snips > 0.4  # the best there is brings .6, even draws .225
    assert even.snips == pytest.approx(0.225, abs=0.03)


def test_our_learner_finds_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.dsjson", as_lines(drawn_log(1_500, tastes=False)))
    assert _value(path, "learner").verdict == "not told apart"


def test_no_event_judges_what_it_taught() -> None:
    """The last is learned from as it is weighed: its own reward changes nothing of its share."""
    events = drawn_log(FIRST + 1)
    shares = []
    for cost in (0.0, -1.0):
        learner = Learner()
        shares.append(
            [learner(decision_of(line))[0] for line in as_lines([*events[:-1], events[-1] | {"_label_cost": cost}])]
        )
    assert shares[0] == shares[1]
    assert shares[0][:FIRST] == [0.25] * FIRST
    assert shares[0][-1] != 0.25


def test_our_learner_learns_slots_and_slates(tmp_path: Path) -> None:
    for log in (two_slot_log(), slates_log()):
        value = _value(write_log(tmp_path / "log.dsjson", as_lines(log) * 150), "learner")
        assert np.isfinite(value.ips)


_BAD = st.one_of(
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")),
    st.sampled_from([line[:60] for line in as_lines(single_slot_log())]),
    st.sampled_from(as_lines([event | {"_label_probability": 1.5} for event in single_slot_log()])),
    st.sampled_from(as_lines([event | {"_skipLearn": True} for event in single_slot_log()])),
    st.sampled_from(as_lines([event | {"_label_cost": None} for event in single_slot_log()])),
)


_GOOD = as_lines(single_slot_log() + drawn_log(40))
_POLICIES = ("even", "index:1", "learner")


@pytest.fixture(scope="module")
def figures_of_good_lines(tmp_path_factory: pytest.TempPathFactory) -> str:
    return repr(_values(write_log(tmp_path_factory.mktemp("good") / "good.dsjson", _GOOD), *_POLICIES))


@given(st.lists(st.tuples(st.integers(0, 40), _BAD), max_size=15))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_bad_lines_has_the_figures_of_the_file_without(
    tmp_path: Path, figures_of_good_lines: str, bad: list[tuple[int, bytes]]
) -> None:
    lines = _GOOD.copy()
    for place, line in bad:
        lines.insert(place + 1, line)
    assert repr(_values(write_log(tmp_path / "bad.dsjson", lines), *_POLICIES)) == figures_of_good_lines
