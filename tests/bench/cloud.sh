#!/usr/bin/env bash
# Measures the cloud model: builds release binaries, then thin disks, servers, attachment, import and lists, each beside a baseline of the same
# run, as JSON. Less than three minutes once they are built.
#   tests/bench/cloud.sh [--disks 1000] [--import-mib 1024] [--rounds 5]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
for program in kmsd evsfs ecsctl; do
    cargo build --locked --release --quiet -p "$program"
done
cargo build --locked --release --quiet -p ecs-tests --bin cloud-bench
target=${CARGO_TARGET_DIR:-$PWD/target}
ECS_TEST_BIN=$target/release exec "$target/release/cloud-bench" "$@"
