"""Which Redis the settings name, and what contradicts itself. What the guard does is tested on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from recommendation_service.core.config import load_settings
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.redis import make_client, open_redis, redis_address
from recommendation_service.telemetry.metrics import Metrics
from tests.support.certificates import make_certificate

SECRET = "hunter2hunter2"


def test_without_an_address_there_is_no_redis() -> None:
    settings = load_settings(redis_password=SECRET)

    assert make_client(settings) is None
    assert open_redis(settings, Metrics()) is None


def test_a_single_server_with_its_database_and_password() -> None:
    client = make_client(load_settings(redis_host="cache", redis_port=6400, redis_db=3, redis_password=SECRET))

    assert isinstance(client, Redis)
    options = client.connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("cache", 6400, 3)
    assert options["password"] == SECRET


def test_tls_checks_the_servers_certificate(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    client = make_client(load_settings(redis_host="cache", redis_scheme="tls", redis_ca_file=certificate))

    assert isinstance(client, Redis)
    assert client.connection_pool.connection_class is SSLConnection
    connection = client.connection_pool.make_connection()
    assert isinstance(connection, SSLConnection)
    assert connection.ssl_context.cert_reqs.name == "CERT_REQUIRED"
    assert connection.ssl_context.check_hostname
    assert connection.ssl_context.ca_certs == str(certificate)


def test_sentinels_have_their_own_password() -> None:
    client = make_client(
        load_settings(
            redis_sentinels="one:26379, [::1]:26380",
            redis_sentinel_master="recs",
            redis_sentinel_password="theirs",
            redis_password=SECRET,
            redis_db=2,
        )
    )

    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "recs"
    assert (pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == (SECRET, 2)
    sentinels = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(options["host"], options["port"]) for options in sentinels] == [("one", 26379), ("::1", 26380)]
    assert {options["password"] for options in sentinels} == {"theirs"}


def test_a_cluster_is_found_by_one_of_its_nodes() -> None:
    client = make_client(load_settings(redis_host="node", redis_cluster=True, redis_password=SECRET))

    assert isinstance(client, RedisCluster)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"redis_host": "a", "redis_sentinels": "b:1"},
            "REDIS_HOST and REDIS_SENTINELS both say where Redis is: set one",
        ),
        ({"redis_cluster": True}, "REDIS_CLUSTER is set but REDIS_HOST, one of its nodes, is not"),
        (
            {"redis_cluster": True, "redis_host": "a", "redis_db": 1},
            "REDIS_CLUSTER is set, and a cluster has no database but REDIS_DB 0",
        ),
        ({"redis_sentinels": "a"}, "REDIS_SENTINELS: a must be host:port (given: 'a')"),
        ({"redis_sentinels": "a:1,:2"}, "REDIS_SENTINELS: :2 must be host:port (given: 'a:1,:2')"),
        ({"redis_sentinels": "a:65536"}, "REDIS_SENTINELS: a:65536 must be host:port (given: 'a:65536')"),
        ({"redis_scheme": "rediss"}, "REDIS_SCHEME: Input should be 'redis' or 'tls' (given: 'rediss')"),
    ],
)
def test_what_cannot_be_meant_is_named(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(**given)

    assert raised.value.problems == [problem]


@pytest.mark.parametrize(
    "given",
    [{"redis_host": "cache"}, {"redis_sentinels": "one:1,two:2"}, {"redis_host": "node", "redis_cluster": True}],
)
def test_no_password_is_shown(given: dict[str, Any]) -> None:
    settings = load_settings(**given, redis_password=SECRET, redis_sentinel_password=SECRET)
    guard = open_redis(settings, Metrics())

    assert guard is not None
    for shown in (redis_address(settings), repr(settings), repr(guard.client), repr(guard)):
        assert SECRET not in shown
