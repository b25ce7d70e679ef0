"""Certificates of a test's own, which vouch for themselves: a client trusts one that is told to."""

import subprocess
from pathlib import Path

from tests.servers import LOOPBACK, find_program


def make_certificate(folder: Path, bears: str = f"IP:{LOOPBACK}") -> tuple[Path, Path]:
    """Files of a new certificate and its key, as PEM. ``bears``: what it vouches for, as in IP:127.0.0.1 or DNS:db."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *[find_program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"],
            *["-subj", "/CN=test", "-addext", f"subjectAltName={bears}"],
            *["-keyout", str(key), "-out", str(certificate)],
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
