#!/usr/bin/env bash
# Starts the service under Gunicorn after checking what would make it fail later.
#
#   scripts/start_production.sh            in the foreground, for systemd or a terminal
#   scripts/start_production.sh --check    only the checks
#
# Settings come from the environment or a .env file in the repository's root: see docs/settings.md.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

problems=()
[ -x .venv/bin/python ] || problems+=("no .venv: run 'make setup'")
[ -f gunicorn.conf.py ] || problems+=("no gunicorn.conf.py here")
if [ ${#problems[@]} -eq 0 ]; then
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        problems+=("Python 3.11 or newer is needed; .venv has $(.venv/bin/python --version)")
    # Prints every problem of the settings, and stops with them.
    .venv/bin/recs config >/dev/null || problems+=("the settings above cannot be used")
fi
if [ ${#problems[@]} -eq 0 ]; then
    data_dir=$(.venv/bin/recs config --json | .venv/bin/python -c \
        'import json, sys; print(next(s["value"] for s in json.load(sys.stdin) if s["setting"] == "DATA_DIR"))')
    if ! mkdir -p "$data_dir" || [ ! -w "$data_dir" ]; then
        problems+=("DATA_DIR $data_dir cannot be written by $(id -un)")
    elif [ "$(df -Pk "$data_dir" | awk 'NR == 2 {print $4}')" -lt 1048576 ]; then
        problems+=("less than 1 GB is free in DATA_DIR $data_dir")
    fi
    files=$(ulimit -n)
    if [ "$files" != unlimited ] && [ "$files" -lt 4096 ]; then
        ulimit -n 4096 2>/dev/null || problems+=("the limit of open files is $files: raise it to 4096 (ulimit -n)")
    fi
fi
# Not with --check, which may be asked of a service that runs; systemd hands over a socket that is bound.
if [ ${#problems[@]} -eq 0 ] && [ "${1:-}" != --check ] && [ -z "${LISTEN_FDS:-}" ]; then
    said=$(.venv/bin/python -m recommendation_service.core.listening 2>&1) || problems+=("$said")
fi
if [ ${#problems[@]} -gt 0 ]; then
    printf 'The service cannot start:\n' >&2
    printf -- '- %s\n' "${problems[@]}" >&2
    exit 1
fi
if [ "${1:-}" = --check ]; then
    echo "Ready to start."
    exit 0
fi
exec .venv/bin/python -m gunicorn -c gunicorn.conf.py api.server:app
