#!/usr/bin/env bash
# The command line's curl with --http2, which offers HTTP/2 with every request over plain http.
#
#   client_curl.sh URL PLAN [CERTIFICATE]    (see tests/clients/programs/README.md)
set -u
answer=$(mktemp) first=$(mktemp)
trap 'rm -f "$answer" "$first"' EXIT

slowly() {
    local byte
    while IFS= read -r -N 6 byte || [ -n "$byte" ]; do
        sleep 0.2
        printf '%s' "$byte"
    done
}

while IFS=$'\t' read -r name manner path body; do
    : >"$first"
    call=(curl --silent --show-error --http2 --header 'Content-Type: application/json' --output "$answer"
        --write-out '%{http_code}' ${3:+--cacert "$3"} "$1$path")
    case $manner in
    gzip) call+=(--header 'Content-Encoding: gzip' --data-binary "@$body") ;;
    expect) call+=(--header 'Expect: 100-continue' --data-binary "@$body") ;;
    slow) call+=(--request POST --upload-file -) ;; # chunked
    retry)
        call+=(--header "Idempotency-Key: $body" --data-binary "@$body")
        "${call[@]}" >/dev/null </dev/null
        cp "$answer" "$first"
        call+=(--retry 3) # waits for Retry-After by itself
        ;;
    *) call+=(--data-binary "@$body") ;;
    esac
    if [ "$manner" = slow ]; then
        status=$(slowly <"$body" | "${call[@]}" 2>&1) || status="error $status"
    else
        status=$("${call[@]}" 2>&1 </dev/null) || status="error $status"
    fi
    case $status in
    error*) printf '%s\terror\t%s\t\n' "$name" "$(printf '%s' "$status" | base64 -w 0)" ;;
    *) printf '%s\t%s\t%s\t%s\n' "$name" "${status: -3}" "$(base64 -w 0 "$answer")" "$(base64 -w 0 "$first")" ;;
    esac
done <"$2"
