#!/bin/bash
# fuzz.sh [SECONDS] [TARGET…]: fuzzes each target (decode, engine, history, nflog) for so long, one after the other, and says how
# many executions that were. The corpus grows in ${XDG_CACHE_HOME:-~/.cache}/dmvpn/fuzz; what is found is kept there too,
# is printed with the command that replays it, and ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
case $seconds in '' | *[!0-9]*) echo "usage: fuzz.sh [SECONDS] [TARGET...]" >&2; exit 2 ;; esac
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- decode engine history nflog

cache=${XDG_CACHE_HOME:-$HOME/.cache}/dmvpn/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
build=${CARGO_TARGET_DIR:-target}/fuzz
command -v c++ >/dev/null || { echo "fuzz.sh: libFuzzer needs a C++ compiler: apt-get install g++" >&2; exit 1; }

# Coverage by LLVM's own pass, which a stable compiler has too. With --target the flags stay off build scripts. The linker
# must keep the sections in which the counters lie.
flags=(-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
echo "== building" >&2
RUSTFLAGS="${flags[*]}" cargo build -q -p fuzz --features libfuzzer --bins --profile fuzz \
    --target "$host" --target-dir "$build"

for target; do
    program=$build/$host/fuzz/$target
    corpus=$cache/corpus/$target seeds=$cache/seeds/$target found=$cache/found/$target
    mkdir -p "$corpus" "$seeds" "$found"
    log=$cache/$target.log
    echo "== $target: $seconds s"
    status=0
    FUZZ_SEEDS=$seeds "$program" -max_total_time="$seconds" -max_len=2048 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$found/" "$corpus" "$seeds" >"$log" 2>&1 || status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "   ${executions:-0} executions, $(find "$corpus" -type f | wc -l) inputs in the corpus"
    if [ $status != 0 ]; then
        tail -n 40 "$log"
        input=$(sed -n 's/^.*Test unit written to //p' "$log" | tail -n 1)
        echo "== $target: found something; replay it with: $program ${input:-$log}"
        exit 1
    fi
done
