#!/usr/bin/env bash
# Creates .venv with exactly what a lock file says, and the project itself.
#
#   scripts/setup.sh runtime   what the service needs (requirements.lock)
#   scripts/setup.sh dev       the same, plus what tests, checks and benchmarks need (requirements-dev.lock)
#
# Called before every make target: when nothing changed it compares one checksum and is done in milliseconds.
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -euo pipefail

profile=${1:-runtime}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
readonly venv=.venv

case $profile in
runtime) locks=(requirements.lock) ;;
# Both, so that pip refuses when the two locks disagree, and `make run` finds its part done.
dev) locks=(requirements.lock requirements-dev.lock) ;;
*)
    echo "usage: scripts/setup.sh [runtime|dev]" >&2
    exit 2
    ;;
esac

fail() {
    printf '%s\n' "error: $1" "${@:2}" >&2
    exit 1
}

# A stamp holds the checksum of the locks and of this script, and the folder: a copied or moved .venv still has
# the old folder in its scripts, so it is built anew.
state_of() {
    cat "$@" "${BASH_SOURCE[0]}" | sha256sum | cut -d ' ' -f 1
    printf '%s\n' "$root"
}
stamp_of() { printf '%s/.installed-%s' "$venv" "$1"; }
is_current() { # PROFILE LOCK...
    # The interpreter is run, since an upgrade of the system may have taken it away.
    [ -f "$(stamp_of "$1")" ] && [ "$(state_of "${@:2}")" = "$(cat "$(stamp_of "$1")")" ] &&
        "$venv/bin/python" -S -E -c '' 2>/dev/null
}
! is_current "$profile" "${locks[@]}" || exit 0

# Two makes at once: the second waits for the first and finds its work done. The lock is on the folder: no file stays.
if command -v flock >/dev/null; then
    exec 9<"$root"
    flock 9
    ! is_current "$profile" "${locks[@]}" || exit 0
fi

# A name may exist and still not run (pyenv's shims), so every candidate is tried; 3.11 first, since the locks are
# tested on it most. Sets `python`.
find_python() {
    local candidate version found=''
    local candidates=(python3.11 python3.12 python3.13 python3.14 python3 python)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            python=$candidate
            return
        fi
        found+="${found:+, }$candidate is $version"
    done
    fail "Python 3.11 or newer is needed; ${found:-${PYTHON:-no Python} was not found or does not run}." \
        "On Debian 12: sudo apt-get install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3.11 ..."
}

# Debian keeps the part of Python that makes environments in a package of its own.
ensure_venv_module() {
    ! "$python" -c 'import ensurepip, venv' 2>/dev/null || return 0
    local real
    real=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    [[ $real =~ ^/usr/bin/python3\.[0-9]+$ ]] ||
        fail "$real lacks the modules venv and ensurepip. Name a complete Python: make PYTHON=/path/to/python3.11 ..."
    bash scripts/install_servers.sh "$(basename "$real")-venv" 9<&-
}

# The project is put on the path by a .pth file and its command written here, instead of `pip install -e .`: that would
# need a build backend, which build isolation fetches unpinned and without a hash, and which the environments
# of Python 3.12 and newer no longer contain. The effect is the same as that of an editable install.
link_project() {
    local site
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$root" >"$site/recommendation_service.pth"
    # Through sh, as pip does it: a first line that names the interpreter breaks on a long path or one with a space.
    cat >"$venv/bin/recs" <<SCRIPT
#!/bin/sh
'''exec' "$root/$venv/bin/python" "\$0" "\$@"
' '''
import sys

from recommendation_service.entry import main

sys.exit(main())
SCRIPT
    chmod 755 "$venv/bin/recs"
}

find_python
ensure_venv_module

# An environment is added to only when `make run` made it from the same lock; any other one is replaced, not patched:
# what a lock no longer names must not linger. The stamps go before the work and come back after it: an interrupted
# installation never looks complete.
if [ -e "$(stamp_of dev)" ] || ! is_current runtime requirements.lock; then
    echo "Creating $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
rm -f "$(stamp_of dev)" "$(stamp_of runtime)"

count=$(cat "${locks[@]}" | grep -E '^[A-Za-z0-9._-]+==' | cut -d = -f 1 | sort -u | wc -l)
echo "Installing $count packages from ${locks[*]} (once; about a minute)"
arguments=()
for lock in "${locks[@]}"; do
    arguments+=(--requirement "$lock")
done
# Wheels only: to build a package from source, pip would fetch a build backend that no hash covers.
"$venv/bin/python" -m pip install --quiet --quiet --no-input --disable-pip-version-check \
    --require-hashes --only-binary=:all: "${arguments[@]}" </dev/null 9<&- ||
    fail "pip could not install what ${locks[*]} names; its message is above. The same command tries again."
link_project

state_of requirements.lock >"$(stamp_of runtime)"
if [ "$profile" = dev ]; then
    state_of "${locks[@]}" >"$(stamp_of dev)"
fi
