#!/bin/bash
# stage.sh NAME COMMAND…   runs one stage of `make test`, says how long it took and notes it
# stage.sh start|summary   begins a list of stages; prints it, the longest being what to look at
set -uo pipefail
list=${CARGO_TARGET_DIR:-target}/stages
case ${1:?} in
start)
    mkdir -p "$(dirname "$list")"
    : >"$list"
    ;;
summary)
    echo "== where the time went"
    awk '{ printf "   %-18s %7.1f s\n", $1, $2; sum += $2 } END { printf "   %-18s %7.1f s\n", "all", sum }' "$list"
    ;;
*)
    name=$1
    shift
    echo "== $name: $*"
    start=$(date +%s.%N)
    "$@"
    status=$?
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    echo "$name $took" >>"$list"
    if [ $status != 0 ]; then
        echo "== $name failed (status $status) after $took s" >&2
        [ "${CI:-}" ] && "$0" summary
    fi
    exit $status
    ;;
esac
