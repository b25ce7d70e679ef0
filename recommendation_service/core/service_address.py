"""Where a service listens, from an address that somebody wrote."""

from urllib.parse import SplitResult, urlsplit


def service_address(written: str) -> SplitResult:
    """Of http or https, with a host, and a port that is one or none. Raises ValueError for anything else."""
    parts = urlsplit(written)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError
    return parts
