"""What pools count of their connections as they work; telemetry/ has where that goes."""

from typing import Protocol

POOL_SIZE = "recs_database_pool_size"
POOL_IN_USE = "recs_database_pool_in_use"
POOL_WAITS = "recs_database_pool_waits"
POOL_WAIT_SECONDS = "recs_database_pool_wait_seconds"
POOL_TIMEOUTS = "recs_database_pool_timeouts"
READS = "recs_database_reads"
REPLICA_FALLBACKS = "recs_replica_fallbacks"
REPLICA_USABLE = "recs_replica_usable"
REPLICA_LAG_SECONDS = "recs_replica_lag_seconds"


class Numbers(Protocol):
    """Where a process's pools count. Called from any thread; never raises."""

    def add(self, name: str, amount: float, label: str = "") -> None: ...

    def set(self, name: str, value: float, label: str = "") -> None: ...


class NoNumbers:
    """Of a command that nobody scrapes."""

    def add(self, name: str, amount: float, label: str = "") -> None:
        pass

    def set(self, name: str, value: float, label: str = "") -> None:
        pass
