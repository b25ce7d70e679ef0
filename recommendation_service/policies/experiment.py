"""What an experiment is: which policy versions are compared on whom, and who began it, when and why.

It is fixed when it begins. Other arms or shares are another experiment: who changed arms half way would have seen some
of one and some of the other.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from recommendation_service.policies.journal import Deed

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
MOST_ARMS = 8
START, END = "experiment", "experiment-end"  # in the journal
LIVE = "the gate:live"  # in place of an arm's label: the feed was made by a version that the gate weighs
CURRENT_VERSION = "current"  # as an arm's version: what is served as the experiment begins
_TOLERANCE = 1e-9  # of the shares' sum


class Arm(NamedTuple):
    name: str
    version: str
    share: float


@dataclass(frozen=True)
class Experiment:
    """``salt``: two experiments of one salt have people in the same order, so with the same shares in the same arms."""

    name: str
    salt: str
    arms: tuple[Arm, ...]
    started: str  # ISO 8601
    who: str
    why: str

    @property
    def shares(self) -> list[float]:
        return [arm.share for arm in self.arms]

    @property
    def versions(self) -> list[str]:
        return [arm.version for arm in self.arms]

    @property
    def labels(self) -> list[str]:
        """Of each arm, what a feed's record says that was made by it."""
        return [label_of(self.name, arm.name) for arm in self.arms]

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"arms": [arm._asdict() for arm in self.arms]}


class Ended(NamedTuple):
    """An experiment that is over."""

    experiment: Experiment
    when: str
    who: str
    why: str


def about(experiment: Experiment, deed: Deed) -> Deed:
    """As the journal has it, which names versions."""
    return deed._replace(why=f"{experiment.name}: {deed.why}" if deed.why else experiment.name)


def label_of(experiment: str, arm: str) -> str:
    return f"{experiment}:{arm}"


def experiment_of(content: Any) -> Experiment:
    """Of ``Experiment.content``. Raises ValueError, TypeError, KeyError for what is none."""
    arms = tuple(Arm(str(arm["name"]), str(arm["version"]), float(arm["share"])) for arm in content["arms"])
    names = ("name", "salt", "started", "who", "why")
    found = Experiment(**{name: str(content[name]) for name in names}, arms=arms)
    if problems := experiment_problems(found.name, found.arms):
        raise ValueError("; ".join(problems))
    return found


def experiment_problems(name: str, arms: Sequence[Arm]) -> list[str]:
    """Why there cannot be such an experiment; empty where there can."""
    problems = []
    rule = "begins with a letter or digit, and has up to 40 letters, digits, . _ or -"
    problems += [
        f"the name {text!r} is none: a name {rule}"
        for text in (name, *(arm.name for arm in arms))
        if NAME.fullmatch(text) is None
    ]
    if not 2 <= len(arms) <= MOST_ARMS:
        problems.append(f"an experiment has 2 to {MOST_ARMS} arms, and {len(arms)} were given")
    names = [arm.name for arm in arms]
    problems += [
        f"the arm {one} was given {names.count(one)} times" for one in dict.fromkeys(names) if names.count(one) > 1
    ]
    wrong = [arm for arm in arms if not 0 < arm.share < 1]
    problems += [f"the share of {arm.name} is {arm.share:g}, and must be between 0 and 1" for arm in wrong]
    total = math.fsum(arm.share for arm in arms)
    if not wrong and abs(total - 1) > _TOLERANCE:
        problems.append(f"the shares add up to {total:.10g}, and must to 1")
    return problems
