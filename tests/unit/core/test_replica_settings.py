"""Addresses of replicas: what they may be, and that nobody sees their passwords."""

import pytest

from recommendation_service.core.config import load_settings
from recommendation_service.core.errors import ConfigurationError

SERVER = {"mysql_host": "db", "mysql_user": "recs", "mysql_db": "tables"}


def test_an_address_has_the_primarys_database_and_driver_where_it_names_none() -> None:
    settings = load_settings(**SERVER, mysql_replica_urls="mysql://u:p%2C@one, mariadb+pymysql://u:p@two:3307/other,")

    one, two = settings.replica_urls
    assert (one.drivername, one.host, one.port, one.database) == ("mysql+pymysql", "one", None, "tables")
    assert one.password == "p,"  # a comma is written %2C
    assert (two.drivername, two.host, two.port, two.database) == ("mariadb+pymysql", "two", 3307, "other")


def test_without_addresses_there_is_no_replica() -> None:
    assert load_settings(**SERVER).replica_urls == ()
    assert load_settings(**SERVER, mysql_replica_urls="").replica_urls == ()


@pytest.mark.parametrize("wrong", ["sqlite:////x", "oracle://u:hunter2@h/d", "hunter2", "mysql://", "mysql://h:port"])
def test_a_wrong_address_is_named_by_its_place_and_not_shown(wrong: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**SERVER, mysql_replica_urls=f"mysql://u:hunter2@h,{wrong}")

    assert caught.value.problems == [
        "MYSQL_REPLICA_URLS: number 2 is not an address such as mysql://user:password@host/database or "
        "postgresql://user:password@host/database"
    ]


def test_replicas_of_the_embedded_database_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="MYSQL_REPLICA_URLS is set but there is no server"):
        load_settings(mysql_replica_urls="mysql://u:p@h")


def test_replicas_are_of_the_primarys_kind() -> None:
    primary = "postgres://u:hunter2@one/shop"
    (replica,) = load_settings(database_url=primary, mysql_replica_urls="postgres://u:hunter2@two:5433").replica_urls
    assert (replica.drivername, replica.database, replica.query) == ("postgresql+psycopg", "shop", {})
    for other in (
        {"database_url": primary, "mysql_replica_urls": "mysql://u:hunter2@two"},
        {**SERVER, "mysql_replica_urls": primary},
    ):
        with pytest.raises(ConfigurationError, match="name servers of different kinds") as caught:
            load_settings(**other)
        assert "hunter2" not in str(caught.value)


def test_passwords_are_hidden() -> None:
    settings = load_settings(**SERVER, mysql_replica_urls="mysql://u:hunter2@h")

    assert "hunter2" not in f"{settings!r} {settings.mysql_replica_urls}"
