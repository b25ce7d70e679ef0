"""Errors that a client may be told: each with a status and a code of its own."""

import pytest

from recommendation_service.core import errors
from recommendation_service.core.errors import ConfigurationError, InvalidRequest, NotReady, ServiceError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_error_has_a_status_and_a_code(kind: type[ServiceError]) -> None:
    assert 400 <= kind.status < 600
    assert kind.code.replace("_", "").islower()


def test_no_two_errors_share_a_code_unless_one_is_a_kind_of_the_other() -> None:
    own = [kind for kind in KINDS if kind is ServiceError or "code" in vars(kind)]
    assert len({kind.code for kind in own}) == len(own)


def test_an_error_carries_what_a_client_is_told() -> None:
    details = [{"field": "N_VIDEOS", "problem": "too large"}]
    error = InvalidRequest("wrong", details)

    assert (str(error), error.message, error.details) == ("wrong", "wrong", details)
    assert error.retry_after_seconds is None
    assert NotReady("later", retry_after_seconds=5).retry_after_seconds == 5


def test_a_configuration_error_is_all_of_its_problems() -> None:
    error = ConfigurationError(["one", "two"])

    assert error.problems == ["one", "two"]
    assert str(error) == "one\ntwo"
