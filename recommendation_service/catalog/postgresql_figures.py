"""What a server of PostgreSQL says of its connections and indices, under the names that MySQL's figures have."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.engine import Connection

# What others run is told to a user of pg_read_all_stats alone.
_CONNECTIONS = """SELECT count(*) AS connected, count(*) FILTER (WHERE state = 'active') AS running,
  pg_has_role('pg_read_all_stats', 'USAGE') AS is_told, CAST(current_setting('max_connections') AS integer) AS most
FROM pg_stat_activity WHERE datid IS NOT NULL"""
_INDEX_READS = """SELECT relname, indexrelname, idx_tup_read FROM pg_stat_user_indexes WHERE relname = ANY(:tables)
UNION ALL SELECT relname, :scan, seq_tup_read FROM pg_stat_user_tables WHERE relname = ANY(:tables)
ORDER BY 1, 2"""


def read_connections(connection: Connection) -> dict[str, float]:
    found = connection.execute(text(_CONNECTIONS)).one()
    figures = {"Threads_connected": float(found.connected), "max_connections": float(found.most)}
    return figures | ({"Threads_running": float(found.running)} if found.is_told else {})


def read_index_reads(connection: Connection, tables: Sequence[str], scan: str) -> list[tuple[str, str, int]]:
    """(table, index, entries read through it) since the statistics began; ``scan`` stands for no index."""
    rows = connection.execute(text(_INDEX_READS), {"tables": list(tables), "scan": scan})
    return [(str(table), str(index), int(reads or 0)) for table, index, reads in rows]
