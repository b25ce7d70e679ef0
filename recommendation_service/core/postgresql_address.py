"""An address of PostgreSQL as people have it: from a hoster's page, in a form that other libraries read."""

from sqlalchemy.engine import URL

POSTGRESQL = "postgresql"
_NAMES = {"postgres", POSTGRESQL}
DRIVER = f"{POSTGRESQL}+psycopg"

# What Prisma, node-postgres, JDBC, Rails and asyncpg read; libpq connects nowhere with what it does not know.
_MEANT_FOR_OTHERS = {
    *("pgbouncer", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size", "sslaccept"),
    *("uselibpqcompat", "supa", "workaround", "pool", "pool_size", "max_overflow", "reaping_frequency", "encoding"),
    *("prepared_statements", "prepared_statement_cache_size", "prepareThreshold", "preparedStatementCacheQueries"),
}

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def is_postgresql(url: URL) -> bool:
    return url.drivername.split("+")[0] in _NAMES


def postgresql_address(url: URL) -> URL:
    """By psycopg, and without what is meant for others."""
    return url.set(drivername=DRIVER).difference_update_query(_MEANT_FOR_OTHERS)


def problem_of(url: URL) -> str | None:
    """What libpq would refuse at each connection, which is better said at the start; None: nothing."""
    from psycopg import pq  # loads libpq: only where an address is of PostgreSQL

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    query = postgresql_address(url).query
    if unknown := sorted(set(query) - known):
        return f"has {', '.join(unknown)}, which PostgreSQL's own library does not know"
    if (mode := query.get("sslmode")) is not None and mode not in _SSL_MODES:
        return f"has an sslmode that is none of {', '.join(_SSL_MODES)}"
    return None
