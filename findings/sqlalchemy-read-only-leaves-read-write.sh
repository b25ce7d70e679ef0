#!/usr/bin/env bash
# A connection that was used once with postgresql_readonly=True begins READ WRITE from then on.
#
# Versions:  SQLAlchemy 2.1.9, psycopg 3.3.9 (binary), PostgreSQL 15.18 (Debian's package).
# One would guess: what execution_options(postgresql_readonly=True) sets for one use is taken back when the connection
#   returns to the pool, so that the next use begins as the server says.
# What happens: it is set to False and not to what it was. Psycopg then sends BEGIN READ WRITE. A user or a database whose
#   default_transaction_read_only is on may write over that connection, and a standby refuses each use of it, reads too:
#   "cannot set transaction read-write mode during recovery".
set -euo pipefail

folder=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
  chown nobody "$folder"
  as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -1)
trap '"${as[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
"${as[@]}" "$bin/initdb" --pgdata=data --username=example --auth=trust --no-sync >/dev/null
"${as[@]}" "$bin/pg_ctl" -D data -l log -w -o "-c listen_addresses= -c unix_socket_directories=$folder" start >/dev/null
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check sqlalchemy==2.1.9 'psycopg[binary]==3.3.9'
cat >uses.py <<'PYTHON'
import sys

from sqlalchemy import create_engine, text

engine = create_engine(f"postgresql+psycopg://example@/postgres?host={sys.argv[1]}", pool_size=1, max_overflow=0)
with engine.begin() as connection:
    connection.execute(text("ALTER ROLE example SET default_transaction_read_only = on"))
engine.dispose()


def is_read_only() -> str:
    with engine.connect() as connection:
        return connection.execute(text("SHOW transaction_read_only")).scalar_one()


print("before:", is_read_only())
with engine.connect().execution_options(postgresql_readonly=True) as connection:
    connection.execute(text("SELECT 1"))
print("after:", is_read_only())
PYTHON
output=$(venv/bin/python uses.py "$folder")
printf '%s\n' "$output"
grep -qx 'before: on' <<<"$output"
grep -qx 'after: off' <<<"$output"
