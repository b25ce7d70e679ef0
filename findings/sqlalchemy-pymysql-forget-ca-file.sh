#!/usr/bin/env bash
# An address that names a file of authorities and asks for verification verifies without that file.
#
# Versions:  SQLAlchemy 2.1.9, PyMySQL 1.2.4.
# One would guess: `mysql+pymysql://…?ssl_ca=FILE&ssl_verify_cert=true` trusts FILE, as `?ssl_ca=FILE` alone does.
# What happens: SQLAlchemy hands ssl_ca over within the argument `ssl`, and ssl_verify_cert beside it; PyMySQL makes `ssl`
#   anew when it sees the latter. The authorities of the machine are used, so a server with a certificate of the
#   operator's own authority is refused. Nothing says that the file was not read.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check sqlalchemy==2.1.9 pymysql==1.2.4
openssl req -x509 -newkey rsa:2048 -nodes -subj '/CN=authority of the example' -keyout key.pem -out ca.pem 2>/dev/null
cat >address.py <<'PYTHON'
from sqlalchemy import create_engine


def trusts_the_file(words: str) -> bool:
    """Whether a connection to such an address would know the authority of ca.pem; none is opened."""
    engine = create_engine(f"mysql+pymysql://somebody@127.0.0.1/example?{words}")
    arguments, parameters = engine.dialect.create_connect_args(engine.url)
    connection = engine.dialect.connect(*arguments, **parameters, defer_connect=True)
    names = [part for each in connection.ctx.get_ca_certs() for part in each["subject"]]
    return (("commonName", "authority of the example"),) in names


for words in ("ssl_ca=ca.pem", "ssl_ca=ca.pem&ssl_verify_cert=true"):
    print(f"{words}: {'trusts' if trusts_the_file(words) else 'does not know'} the file's authority")
PYTHON
output=$(venv/bin/python address.py)
printf '%s\n' "$output"
grep -qx "ssl_ca=ca.pem: trusts the file's authority" <<<"$output"
grep -qx "ssl_ca=ca.pem&ssl_verify_cert=true: does not know the file's authority" <<<"$output"
