"""What the doctor says of a real Redis: that it is there, lets the user in, and what it denies."""

from __future__ import annotations

from typing import Any

from recommendation_service.core.config import load_settings
from recommendation_service.doctor.findings import Finding, Severity
from recommendation_service.doctor.redis_server import PROBES, check_redis
from tests.servers import PrivateRedis, free_port
from tests.support.redis_workers import redis_settings


def found(redis: PrivateRedis, **changes: Any) -> Finding:
    [finding] = check_redis(redis_settings(redis, **changes))
    return finding


def test_a_user_who_may_do_all_is_fine_and_looking_leaves_nothing(redis: PrivateRedis) -> None:
    for user in (redis.user, None):
        assert found(redis, redis_username=user).severity is Severity.OK
    assert redis.execute("DBSIZE") == ":0"


def test_what_the_user_may_not_do_is_named(redis: PrivateRedis) -> None:
    line = f"narrow on >{redis.password} ~recs:* -@all +@read +@connection +eval"
    assert redis.execute("ACL", "SETUSER", *line.split()) == "+OK"

    finding = found(redis, redis_username="narrow")

    assert finding.severity is Severity.WARNING
    assert "denies narrow: SET, DEL, EXPIRE, XADD, XTRIM, XACK, XDEL, XGROUP CREATE, XREADGROUP" in finding.sentence
    assert "SCRIPT LOAD, EVALSHA" in finding.sentence
    assert "docs/deployment.md" in finding.advice


def test_keys_that_the_user_may_not_reach_are_denials(redis: PrivateRedis) -> None:
    line = f"elsewhere on >{redis.password} ~other:* +@all"
    assert redis.execute("ACL", "SETUSER", *line.split()) == "+OK"

    finding = found(redis, redis_username="elsewhere")

    assert finding.severity is Severity.WARNING
    assert finding.sentence.count(",") == len(PROBES) - 3  # TIME and SCRIPT LOAD have no key


def test_who_is_not_let_in_is_told_which_settings_to_check_and_no_secret(redis: PrivateRedis) -> None:
    for changes in ({"redis_password": "not-its-password"}, {"redis_username": "nobody"}, {"redis_password": ""}):
        finding = found(redis, **changes)
        assert finding.severity is Severity.ERROR
        assert "does not let" in finding.sentence
        assert "REDIS_USERNAME and REDIS_PASSWORD" in finding.advice
        assert "not-its-password" not in repr(finding)


def test_a_server_that_is_not_there_is_an_error_and_no_redis_is_none(redis: PrivateRedis) -> None:
    finding = found(redis, redis_port=free_port())

    assert finding.severity is Severity.ERROR
    assert "No connection to Redis" in finding.sentence
    assert check_redis(load_settings()) == []
