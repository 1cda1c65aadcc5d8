#!/usr/bin/env bash
# Fuzzes with the stable compiler: builds the targets with libFuzzer's coverage (without a sanitizer),
# begins with what stands in the golden volumes, and runs one target, or all in turn.
#   evsfs/fuzz/run.sh [TARGET|all] [SECONDS EACH]
#   evsfs/fuzz/run.sh list                            the targets
set -eu
cd "$(dirname "$(readlink -f "$0")")"
all=$(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' Cargo.toml)
if [ "${1:-all}" = list ]; then
    echo "$all"
    exit
fi
(cd ../.. && cargo run --quiet -p evsfs --example fuzz_seeds -- evsfs/fuzz/corpus)
mkdir -p corpus/volume artifacts
host=$(rustc -vV | sed -n 's/^host: //p')
level=-sanitizer-coverage
flags="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do flags="$flags -Cllvm-args=$level-$flag"; done
RUSTFLAGS=$flags cargo build --quiet --release --target "$host"
targets=${1:-all}
[ "$targets" != all ] || targets=$all
for target in $targets; do
    # A recipe is a choice of volume and up to eight changes; the other inputs are structures of at most nine pages.
    case $target in volume) longest=81 ;; *) longest=36864 ;; esac
    echo "== $target"
    "target/$host/release/$target" -max_total_time="${2:-600}" -max_len="$longest" -len_control=0 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" "corpus/$target"
done
