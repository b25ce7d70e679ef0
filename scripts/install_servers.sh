#!/usr/bin/env bash
# Makes sure that the Debian packages named as arguments are there, and installs those that are not.
#
#   scripts/install_servers.sh                      the servers and tools that `make test` needs
#   scripts/install_servers.sh wrk python3.11-venv  these packages instead
#
# A program that is already on the machine counts, whoever installed it: then nothing is touched and no root is needed.
# Tests start servers of their own in a temporary folder (tests/servers.py); the service that a package would start
# is not wanted: it must neither take a port now nor come up at the next boot.
set -euo pipefail

readonly policy=/usr/sbin/policy-rc.d # invoke-rc.d and deb-systemd-invoke ask this file before they start a service
readonly policy_mark='written by scripts/install_servers.sh of the recommendation service'

# MariaDB comes without a service when only its core is installed, and its core is all that the tests run.
packages=("$@")
if [ ${#packages[@]} -eq 0 ]; then
    packages=(mariadb-server-core mariadb-client-core redis-server wrk apache2-utils curl systemd prometheus nginx-light openssl gcc procps postgresql pgbouncer)
fi

# What a package is installed for. The sbin folders are not on an ordinary user's PATH in Debian.
is_present() {
    local -r PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    case $1 in
    mariadb-server-core) command -v mariadbd && command -v mariadb-install-db ;;
    mariadb-client-core) command -v mysql ;;
    redis-server) command -v redis-server ;;
    apache2-utils) command -v ab ;;
    systemd) command -v systemd-analyze ;;
    nginx-light) command -v nginx ;;
    postgresql) command -v postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' ;;
    default-jdk-headless) command -v java && command -v javac ;;
    nodejs) command -v node ;;
    php-cli) command -v php ;;
    php-curl) php -r "exit((int) !function_exists('curl_init'));" ;;
    golang-go) command -v go ;;
    procps) [ -x /bin/kill ] || [ -x /usr/bin/kill ] ;;
    prometheus) command -v prometheus && command -v promtool ;;
    python3*-venv) "/usr/bin/${1%-venv}" -c 'import ensurepip, venv' ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

missing=()
for package in "${packages[@]}"; do
    is_present "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

give_up() {
    printf 'error: %s\nInstall by hand: sudo apt-get update && sudo apt-get install --no-install-recommends %s\n' \
        "$1" "${missing[*]}" >&2
    exit 1
}

command -v apt-get >/dev/null ||
    give_up "missing: ${missing[*]} (names of Debian packages), and this system has no apt-get."
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || give_up "missing: ${missing[*]}, and installing needs root or sudo without a password."
    as_root=(sudo -n)
fi

# An administrator's own policy is put aside while apt-get runs and put back after it, unless it denies by itself.
# A file of ours that a killed run left behind counts as none, so it is replaced and removed.
restore_policy() {
    "${as_root[@]}" rm -f "$policy"
    if [ -e "$policy.before-recs" ] || [ -L "$policy.before-recs" ]; then
        "${as_root[@]}" mv "$policy.before-recs" "$policy"
    fi
}
deny_service_starts() {
    if [ -e "$policy" ] && ! grep -qs "$policy_mark" "$policy"; then
        local status=0
        "${as_root[@]}" "$policy" redis-server start </dev/null >/dev/null 2>&1 || status=$?
        [ "$status" -ne 101 ] || return 0 # 101: "action forbidden by policy"
        "${as_root[@]}" mv "$policy" "$policy.before-recs"
    fi
    trap restore_policy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\n# %s\nexit 101\n' "$policy_mark" | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
}

log=$(mktemp)
apt() {
    # --no-remove: never push out a server of another make; --no-upgrade: leave alone what is there.
    # The lock time-out waits for an unattended upgrade that may hold dpkg.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}

echo "Installing with apt-get: ${missing[*]}"
deny_service_starts
apt update || echo "warning: apt-get update failed; trying with the package lists that are there" >&2
if ! apt install --yes --no-install-recommends --no-remove --no-upgrade "${missing[@]}"; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    give_up "apt-get could not install ${missing[*]}; its last lines are above."
fi
rm -f "$log"

for package in "${missing[@]}"; do
    is_present "$package" || give_up "apt-get installed $package, and what it is for is still not there."
    # The package enables its service for the next boot. It was installed just now, so nobody relies on that.
    case $package in
    redis-server | prometheus | haproxy | postgresql | pgbouncer) unit=$package.service ;;
    nginx-light) unit=nginx.service ;;
    *) continue ;;
    esac
    [ ! -d /run/systemd/system ] || "${as_root[@]}" systemctl --quiet disable "$unit" || true
done
