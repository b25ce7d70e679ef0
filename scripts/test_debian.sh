#!/usr/bin/env bash
# Proves on a fresh Debian what the README promises of one: `make run`, `make check`, `make test`.
#
#   scripts/test_debian.sh trixie                    all three, as root, in a new Debian 13
#   scripts/test_debian.sh bookworm --user           the same in a new Debian 12, as an ordinary user
#   scripts/test_debian.sh trixie --only run         one of run, check and test
#   scripts/test_debian.sh trixie --keep --folder D  leaves the system in D, to look around with chroot
#   scripts/test_debian.sh trixie --tests 'tests/unit -k cache'
#
# The system is made by debootstrap in a folder of its own, and runs what is committed here (HEAD) in namespaces of its
# own: its mounts and processes end with this script. Needs root and Debian's mirror. Takes as long as the tests do.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
usage() { sed -n 's/^#   scripts/  scripts/p' "${BASH_SOURCE[0]}" >&2; }
fail() {
    printf '%s\n' "error: $1" "${@:2}" >&2
    exit 1
}

suite=${1:-}
case $suite in
bookworm | trixie) shift ;;
-h | --help) usage && exit 0 ;;
*) usage && exit 2 ;;
esac
account=root keep='' only='' tests='' folder=''
while [ $# -gt 0 ]; do
    case $1 in
    --user) account=developer ;;
    --keep) keep=yes ;;
    --only) only=${2:?one of run, check, test} && shift ;;
    --tests) tests=${2:?arguments for pytest} && shift ;;
    --folder) folder=${2:?a folder that is not there yet} && shift ;;
    *) usage && exit 2 ;;
    esac
    shift
done
case $only in '' | run | check | test) ;; *) fail "--only takes run, check or test, not $only" ;; esac

[ "$(id -u)" -eq 0 ] || fail "debootstrap and chroot need root: sudo scripts/test_debian.sh $suite"
bash "$root/scripts/install_servers.sh" debootstrap
[ -z "$(git -C "$root" status --porcelain)" ] || echo "warning: what is not committed is not tested" >&2

system=${folder:-$(mktemp -d /var/tmp/debian-"$suite".XXXXXX)}
[ ! -e "$system/etc" ] || fail "$system holds a system already; name another folder, or remove it"
clean() {
    # Its mounts went with the namespaces; --one-file-system all the same, since what is under them is the machine's.
    [ -n "$keep" ] || rm -rf --one-file-system "$system"
}
trap clean EXIT

mkdir -p "$system"
chmod 755 "$system" # it becomes /, for an ordinary user too
log=$system.log
echo "Making Debian $suite in $system"
debootstrap --variant=minbase --include=python3,python3-venv,make,git,ca-certificates "$suite" "$system" \
    >"$log" 2>&1 || { tail -n 5 "$log" >&2 && fail "debootstrap could not make it: $log"; }
# How this machine reaches the network, the authorities that it trusts among it.
cp /etc/resolv.conf /etc/hosts "$system/etc/"
cp -L /etc/ssl/certs/ca-certificates.crt "$system/etc/ssl/certs/"
git clone --quiet "$root" "$system/srv/recommendation-service"
if [ "$account" != root ]; then
    chroot "$system" useradd --create-home "$account"
    chroot "$system" chown -R "$account:" /srv/recommendation-service
fi

# One command in the system, with a /proc of its own and none of this machine's settings.
inside() { # ACCOUNT COMMAND
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount --pid --fork --kill-child bash -c '
        mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" && mount --rbind /dev "$1/dev" &&
            mount -t tmpfs tmpfs "$1/run" && mount -t tmpfs -o mode=1777 tmpfs "$1/tmp" &&
            exec chroot "$1" su --shell /bin/bash --login "$2" --command "
                export LANG=C.UTF-8 PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DEFAULT_TIMEOUT=180
                cd /srv/recommendation-service && $3"' -- "$system" "$1" "$2"
}

failed=0
step() { # NAME COMMAND
    [ -z "$only" ] || [ "$only" = "$1" ] || return 0
    local started=$SECONDS result=passed
    inside "$account" "$2" </dev/null > >(tee -a "$log") 2>&1 || { result=FAILED && failed=1; }
    results+=("$(printf '%-12s %-7s %5d s' "make $1" "$result" $((SECONDS - started)))")
}

results=()
# First, while nothing is installed and compiled: as a newcomer meets it.
step run 'python3 scripts/first_answer.py'
[ -n "$only" ] && [ "$only" != test ] || inside root 'bash scripts/install_servers.sh' </dev/null
step check 'make check'
step test "make test ARGS='$tests'"

echo
inside root '. /etc/os-release; echo "$PRETTY_NAME, as '"$account"', commit $(git -c safe.directory=\* rev-parse --short HEAD), $(date -u +%F)"
    python3 --version; mariadbd --version 2>/dev/null || true; redis-server --version 2>/dev/null | cut -d " " -f 1-3 || true
    { /usr/sbin/nginx -v || true; } 2>&1 | grep version || true; prometheus --version 2>/dev/null | head -n 1 || true'
printf '%s\n' "${results[@]}"
[ -z "$keep" ] || echo "The system is in $system; its output in $log"
exit "$failed"
