#!/usr/bin/env bash
# Memory pressure (docs/testing.md): a file system on a loop device on a disk, where the process that serves the disk and the one that writes
# share a memory cgroup that is far too small for what is written. The writer must come to its end, and the file system be clean.
# As root with CAP_SYS_RESOURCE, on a machine that is used for nothing else and where memory cgroups can be made (v2, or v1), which a container seldom
# is; so it is no part of run.sh. Without that right evsfs cannot say that memory reclaim waits for it, and the two wait for each other: then nothing is
# tried. Should it come to that all the same, whoever syncs on the machine waits with them, and ending evsfs lets go of all.
#   tests/memory-pressure.sh [EVSFS]      the program, target/debug/evsfs by default; prints one line for each trial
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
evsfs=$(readlink -f "${1:-target/debug/evsfs}")
patience=60
written=$((512 << 20))

dir=$(mktemp -d "${TMPDIR:-/tmp}/evsfs-pressure.XXXXXX")
group=
loop=
pid=
clean() {
    mountpoint -q "$dir/fs" && { umount "$dir/fs" || umount -l "$dir/fs"; }
    [ -z "$loop" ] || losetup --detach "$loop"
    mountpoint -q "$dir/point" && "$evsfs" umount "$dir/point"
    [ -z "$group" ] || leave_group
    rm -rf --one-file-system "$dir"
}
trap clean EXIT

# A cgroup with so many bytes of memory and no swap space.
make_group() {
    local v2
    v2=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET || true)
    if [ -n "$v2" ] && grep -qw memory "$v2/cgroup.controllers"; then
        grep -qw memory "$v2/cgroup.subtree_control" || echo +memory >"$v2/cgroup.subtree_control"
        group=$(mktemp -d "$v2/evsfs-pressure.XXXXXX")
        echo "$1" >"$group/memory.max"
        [ ! -e "$group/memory.swap.max" ] || echo 0 >"$group/memory.swap.max"
    else
        local v1
        v1=$(findmnt --noheadings --first-only --types cgroup --options memory --output TARGET) ||
            { echo "error: no memory cgroups here: run this on a machine, not in a container" >&2; exit 2; }
        group=$(mktemp -d "$v1/evsfs-pressure.XXXXXX")
        echo "$1" >"$group/memory.limit_in_bytes"
    fi
}

leave_group() {
    for _ in $(seq 100); do
        rmdir "$group" 2>/dev/null && break
        sleep 0.1
    done
    group=
}

contents() { yes 'a line that is as good as any other' | head --bytes="$written"; }

# How often the group was at its limit: a trial without pressure shows nothing.
pressure() {
    if [ -e "$group/memory.events" ]; then awk '$1 == "max" { print $2 }' "$group/memory.events"; else cat "$group/memory.failcnt"; fi
}

# trial LIMIT MEMORY DIRECT-IO : MiB of the group, of the disk, and how the loop device reads and writes the view.
trial() {
    make_group $(($1 << 20))
    mkdir "$dir/point" "$dir/fs"
    "$evsfs" create --plain --size 1G "$dir/volume" >/dev/null
    # In the group from its beginning, so that all of its memory is counted there.
    sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" "$evsfs" mount "--memory=${2}M" --log "$dir/log" "$dir/volume" "$dir/point" >/dev/null
    pid=$(pgrep --full --newest -- "mount .*$dir/volume .*--background-child")
    if grep -q 'may stall when memory is short' "$dir/log"; then
        echo "error: evsfs may not become an I/O flusher here (CAP_SYS_RESOURCE): the trial would stall" >&2
        exit 2
    fi
    mkfs.ext4 -q -F "$dir/point/disk"
    loop=$(losetup --find --show "--direct-io=$3" "$dir/point/disk")
    mount "$loop" "$dir/fs"
    local start=$SECONDS
    timeout --kill-after=5 "$patience" sh -c 'echo $$ >"$1/cgroup.procs" && exec dd of="$2/file" bs=1M conv=fsync status=none' \
        sh "$group" "$dir/fs" < <(contents) ||
        { kill -KILL "$pid"; echo "error: the writer did not end within $patience s, or failed (group of $1 MiB, --memory=${2}M)" >&2; exit 1; }
    [ "$(pressure)" -gt 0 ] || { echo "error: $1 MiB were enough: nothing was shown" >&2; exit 1; }
    umount "$dir/fs"
    e2fsck -fn "$loop" >"$dir/fsck" 2>&1 || { cat "$dir/fsck"; exit 1; }
    mount -o ro "$loop" "$dir/fs"
    cmp "$dir/fs/file" <(contents)
    umount "$dir/fs"
    losetup --detach "$loop"
    loop=
    "$evsfs" umount "$dir/point" >/dev/null
    "$evsfs" check "$dir/volume" >/dev/null
    echo "$1 MiB for both, --memory=${2}M, direct-io=$3: written in $((SECONDS - start)) s, $(pressure) times at the limit, clean"
    leave_group
    rm -r "$dir/point" "$dir/fs" "$dir/volume" "$dir/log"
}

for direct in on off; do
    trial 64 16 "$direct"
    trial 96 64 "$direct"
done
