#!/usr/bin/env bash
# Runs the scripts of findings/, or those named, and says which still find what they state. Exit status 1: one does not.
#
#   scripts/findings.sh                 all
#   scripts/findings.sh NAME [NAME...]  findings/NAME.sh
#   scripts/findings.sh --list          each with its first line
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../findings"
if [ "${1:-}" = --list ]; then
    for script in *.sh; do
        printf '%-36s %s\n' "${script%.sh}" "$(sed -n '2s/^# //p' "$script")"
    done
    exit 0
fi
names=("$@")
[ ${#names[@]} -gt 0 ] || for script in *.sh; do names+=("${script%.sh}"); done
for name in "${names[@]}"; do
    [ -f "$name.sh" ] || { echo "error: no findings/$name.sh; there are: $(basename -s .sh -- *.sh | xargs)" >&2 && exit 2; }
done

changed=0
for name in "${names[@]}"; do
    output=$(bash "$name.sh" 2>&1 </dev/null) && state='as stated' || { state=CHANGED && changed=1; }
    printf '%-36s %s\n' "$name" "$state"
    [ "$state" = 'as stated' ] || printf '%s\n' "$output" | sed 's/^/    /'
done
exit "$changed"
