#!/usr/bin/env bash
# Installs what the tests need, then runs formatting, lints, the dependency policy and every test.
# The last lines are the test runner's summary; the exit status is that of the step that failed.
#   tests/run.sh [NEXTEST ARGUMENTS]      for instance: tests/run.sh -E 'test(/^k3_/)'
set -um          # each step in a process group of its own, so that a signal reaches all of it
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
. softhsm-config/packages.sh
. tests/sweep.sh

child=
beside=
status=0
run_dir=

finish() {
    trap '' INT TERM
    local job
    for job in $child $beside; do
        kill -TERM -- "-$job" 2>/dev/null
        wait "$job"
    done
    # A test that passes and leaves a mount or a daemon behind has not passed.
    if [ -n "$run_dir" ] && ! sweep "$run_dir" >&2 && [ "$status" = 0 ]; then
        echo "error: the tests left the above behind" >&2
        status=1
    fi
    exit "$status"
}
trap finish EXIT
trap 'status=130; exit' INT
trap 'status=143; exit' TERM

# step TITLE COMMAND... : in the background, so that a signal is handled at once and not after the command.
step() {
    printf '\n== %s\n' "$1"
    shift
    "$@" </dev/null &
    child=$!
    await child "$*"
}

# await VARIABLE COMMAND : the end of the job whose number is in VARIABLE.
await() {
    wait "${!1}"
    status=$?
    printf -v "$1" ''
    [ "$status" = 0 ] || { echo "error: failed with status $status: $2" >&2; exit; }
}

install_tools() {
    require_packages cc=gcc make=make pkg-config=pkg-config jq=jq sqlite3=sqlite3 fusermount3=fuse3 fio=fio pkcs11-tool=opensc \
        softhsm2-util=softhsm2 pkcsslotd=opencryptoki unshare=util-linux python3=python3 openssl=openssl mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs losetup=mount setpriv=util-linux strace=strace faketime=faketime systemd-analyze=systemd \
        extlinux=extlinux xz=xz-utils unzstd=zstd &&
        require_qemu &&
        require_rust && require_fuse && require_filesystems ext4 xfs btrfs || return 1
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv || return 1
    tests/clients/venv.sh >/dev/null || return 1
    tests/guest/fetch.sh >/dev/null || return 1
    # Versions that build with the oldest compiler that Cargo.toml names.
    command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest@0.9.114 || return 1
    command -v cargo-deny >/dev/null || cargo install --locked --debug cargo-deny@0.20.2 || return 1
    command -v fsx >/dev/null || cargo install --locked --debug fsx@0.3.2 || return 1
    cargo fetch --locked     # of every platform: the dependency policy looks at all of them, offline
}

# The database of advisories is fetched from the network. Without it nothing is known, and that is said, not passed over.
advisories() {
    if cargo deny fetch db; then
        cargo deny check --disable-fetch advisories
    else
        echo "NOT CHECKED: known vulnerabilities. The advisory database could not be fetched (see above);" \
            "run 'cargo deny check advisories' on a machine that reaches it."
    fi
}

# Every new compiler has new lints. They are always shown; of one that is newer than what this was kept clean for they do not count.
lints_counted_to=1.99
lints() {
    local version newest
    version=$(rustc --version | grep -oE '[0-9]+\.[0-9]+' | head -n 1)
    newest=$(printf '%s\n' "$lints_counted_to" "$version" | sort -V | tail -n 1)
    if [ "$newest" = "$lints_counted_to" ]; then
        cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
    else
        echo "rustc $version is newer than $lints_counted_to: its lints are shown and do not count"
        cargo clippy --locked --workspace --all-targets --quiet
    fi
}

# They have a directory and a lock of their own in target/, so they are built while the lints run: either alone leaves processors idle.
# Each program by itself, as it is shipped: built together, they would get each other's features. Only optimisation across crates and
# parts of crates is left out: it takes minutes. The quick start, which runs among the tests, builds with the same settings and finds them made.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0
build_programs() {
    local program
    for program in kmsd evsfs ecsctl; do
        cargo build --locked --release --quiet -p "$program" || return 1
    done
}

step "tools" install_tools
# Mounts and loop devices need root. An ordinary user builds as himself and runs the test programs by sudo.
if [ "$(id -u)" != 0 ]; then
    host=$(rustc -vV | sed -n 's/^host: //p')
    # sudo's own path replaces PATH also then (secure_path in sudoers(5)); what cargo installed for this user is not on it.
    export "CARGO_TARGET_$(echo "$host" | tr 'a-z-' 'A-Z_')_RUNNER=sudo --preserve-env env PATH=$PATH"
fi
printf '\n== programs, beside what follows\n'
build_programs </dev/null &
beside=$!
step "formatting" cargo fmt --all --check
step "lints" lints
step "dependency policy" cargo deny --offline check bans licenses sources
step "known vulnerabilities" advisories
step "documentation tests" cargo test --locked --workspace --doc --quiet
step "test programs" cargo nextest run --locked --workspace --profile ci --no-run
await beside "building the programs"

sweep_dead_runs "${TMPDIR:-/tmp}"
run_dir=$(mktemp -d "${TMPDIR:-/tmp}/ecs-tests.XXXXXX")
own_run "$run_dir"
ECS_TEST_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release
export ECS_TEST_RUN_DIR=$run_dir ECS_TEST_BIN
step "tests" cargo nextest run --locked --workspace --profile ci "$@"
