"""Variants of the policy that ships."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from functools import cache
from typing import Any

from recommendation_service.mappings.shipped import STARTING_POLICY
from recommendation_service.model.features import COLLABORATIVE_NAMES, FEATURE_NAMES
from recommendation_service.policies.format import PolicyFile

SHIPPED = STARTING_POLICY


# How many features the shipped policy has: the 18, and the collaborative ones.
FEATURES = 20
ALL_FEATURE_NAMES = (*FEATURE_NAMES, *COLLABORATIVE_NAMES)


def shipped_content() -> dict[str, Any]:
    """The shipped policy file as it is parsed."""
    return deepcopy(_parsed())


@cache
def _parsed() -> dict[str, Any]:
    return tomllib.loads(SHIPPED.read_text("utf-8"))


def policy_file(**changes: Any) -> PolicyFile:
    """The shipped policy with some values changed or, where they are None, left out;
    the name of one is its path, with __ between the parts:
    ``policy_file(kinds__AU__pool=5)``."""
    content = shipped_content()
    for path, value in changes.items():
        *sections, name = path.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[name] = value
        if value is None:
            del place[name]
    return PolicyFile.model_validate(content)
