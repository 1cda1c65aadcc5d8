#!/usr/bin/env bash
# Measures kmsd under load: builds release binaries, runs the generator beside it, prints JSON. Some two minutes beside the build. Options go to the generator:
#   tests/bench/load.sh [--seconds 5] [--connections 32] [--keys 10,1000,5000] [--out FILE]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
cargo build --locked --release --quiet -p kmsd
cargo build --locked --release --quiet -p ecs-tests --bin kms-load
target=${CARGO_TARGET_DIR:-$PWD/target}
ECS_TEST_BIN=$target/release exec "$target/release/kms-load" "$@"
