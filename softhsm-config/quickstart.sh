#!/usr/bin/env bash
# From a clone to an encrypted disk, every step shown:
#   quickstart.sh [--dir DIR] [--tree TREE]     set up (the first time) and run through the main job; again as often as you like
#   quickstart.sh [--dir DIR] --stop            detach every disk and stop the key service; what is stored stays
#   quickstart.sh [--dir DIR] --remove          stop, and delete the whole installation
# DIR (default $HOME/ecs-quickstart) gets everything: token, keys, disks, programs, logs. Apart from it, only the package manager,
# cargo (its download cache, and target/ in this clone) and mounts inside DIR are used. TREE (default /usr/share/doc) is what gets copied.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
clone=$(dirname "$here")
. "$here/packages.sh"

die() { echo "error: $*" >&2; exit 1; }

action=run dir=${HOME:-/root}/ecs-quickstart tree=/usr/share/doc
while [ $# -gt 0 ]; do
    case $1 in
    --dir | --tree)
        [ $# -ge 2 ] || die "$1 needs a directory"
        [ "$1" = --dir ] && dir=$2 || tree=$2
        shift ;;
    --stop) action=stop ;;
    --remove) action=remove ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done

[ "$(id -u)" = 0 ] || die "loop devices and mounts need root: run this script as root (sudo -E $0)"
dir=$(realpath -m "$dir")
marker=$dir/.ecs-quickstart
if [ -e "$dir" ] && [ ! -e "$marker" ] && [ -n "$(ls -A "$dir")" ]; then
    die "$dir exists and was not made by this script; choose another with --dir"
fi
# A Unix socket's path may have 107 bytes, and each attached disk has one.
[ ${#dir} -le 55 ] || die "the path $dir is too long for the sockets in it (at most 55 characters); choose another with --dir"

export ECS_HOME=$dir/ecs KMSD_HOME=$dir/kmsd KMSD_SOCKET=$dir/run/kmsd.sock PATH=$dir/bin:$PATH
export SOFTHSM2_CONF=$dir/token/softhsm2.conf

bold= plain=
[ -t 1 ] && bold=$(printf '\033[1m') plain=$(printf '\033[0m')
step_number=0
step() { step_number=$((step_number + 1)); printf '\n%s%d. %s%s\n' "$bold" $step_number "$*" "$plain"; }
# Prints a command as one would type it, and runs it.
show() { echo "  \$ $*"; "$@" 2>&1 | sed 's/^/  /'; }

# The process of this installation's kmsd, if it runs: told by its command line, because its file may have been replaced.
kmsd_pid() {
    local pid
    pid=$(cat "$dir/run/kmsd.pid" 2>/dev/null) || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$dir/bin/kmsd serve --home $KMSD_HOME " && echo "$pid"
}

stop_kmsd() {
    local pid
    if pid=$(kmsd_pid); then
        echo "stopping kmsd (process $pid)"
        kill -TERM "$pid"
        tail --pid="$pid" -f /dev/null
    fi
    rm -f "$dir/run/kmsd.pid"
}

start_kmsd() {
    if kmsd_pid >/dev/null; then echo "  kmsd runs already (process $(kmsd_pid))"; return; fi
    local ready=$dir/run/ready line=
    rm -f "$ready"
    mkfifo -m 600 "$ready"
    # It writes "ready" to descriptor 3 when it accepts requests; if it ends instead, the reader sees the end of the pipe.
    setsid "$dir/bin/kmsd" serve --home "$KMSD_HOME" --ready-fd 3 3>"$ready" </dev/null >>"$dir/log/kmsd.log" 2>&1 &
    echo $! >"$dir/run/kmsd.pid"
    read -r line <"$ready" || true
    rm -f "$ready"
    [ "$line" = ready ] || { tail -n 5 "$dir/log/kmsd.log" >&2; die "kmsd did not start; its log is $dir/log/kmsd.log"; }
    echo "  kmsd serves on $KMSD_SOCKET (process $(cat "$dir/run/kmsd.pid"), log $dir/log/kmsd.log)"
}

# File systems and loop devices that stand on disks of this installation.
release_mounts() {
    local point file
    awk -v dir="$dir/" 'index($5, dir) == 1 && $0 !~ / - fuse/ { print $5 }' /proc/self/mountinfo | tac |
        while read -r point; do umount "$point"; done
    for file in /sys/block/loop*/loop/backing_file; do
        [ -r "$file" ] || continue
        case $(cat "$file") in "$dir"/*) file=${file#/sys/block/}; losetup -d "/dev/${file%%/*}" ;; esac
    done
}

stop() {
    local name
    release_mounts
    if [ -x "$dir/bin/ecsctl" ] && [ -d "$ECS_HOME" ]; then
        for name in $("$dir/bin/ecsctl" --json disk list | jq -r '.[] | select(.server != null) | .name'); do
            echo "detaching $name"
            "$dir/bin/ecsctl" disk detach "$name" >/dev/null
        done
    fi
    stop_kmsd
}

case $action in
stop | remove)
    [ -e "$marker" ] || { echo "there is no installation in $dir"; exit 0; }
    stop
    if [ $action = remove ]; then
        rm -rf --one-file-system "$dir"
        echo "removed $dir"
    else
        echo "stopped; start again with: $here/quickstart.sh --dir $dir"
    fi
    exit 0 ;;
esac

finished=
on_exit() {
    local status=$?
    [ -n "$finished" ] && return
    release_mounts 2>/dev/null || true
    echo "quick start failed with status $status; logs are in $dir/log and $ECS_HOME/log, '$0 --dir $dir --remove' cleans up" >&2
}

[ -d "$tree" ] && [ -n "$(ls -A "$tree")" ] || die "$tree is not a directory with files in it; choose another with --tree"

step "Packages and programs"
require_packages cc=gcc make=make pkg-config=pkg-config jq=jq fusermount3=fuse3 pkcs11-tool=opensc softhsm2-util=softhsm2 \
    mkfs.ext4=e2fsprogs losetup=mount diff=diffutils
require_rust
require_fuse
# Each by itself: built together they would get each other's features.
for program in kmsd evsfs ecsctl; do
    echo "  building $program (release)"
    (cd "$clone" && cargo build --release --locked --quiet -p $program)
done
trap on_exit EXIT
umask 077
mkdir -p "$dir"/{bin,run,log,mnt} && chmod 700 "$dir"
touch "$marker"
for program in kmsd evsfs ecsctl; do
    built=${CARGO_TARGET_DIR:-$clone/target}/release/$program
    cmp -s "$built" "$dir/bin/$program" && continue
    # By way of a new name: a program that runs cannot be overwritten, and keeps its old file.
    install -m 755 "$built" "$dir/bin/$program.new"
    mv -f "$dir/bin/$program.new" "$dir/bin/$program"
    [ $program != kmsd ] || stop_kmsd
done
cat >"$dir/env" <<EOF
# . $dir/env    to use this installation in a shell
export ECS_HOME='$ECS_HOME' KMSD_HOME='$KMSD_HOME' KMSD_SOCKET='$KMSD_SOCKET' SOFTHSM2_CONF='$SOFTHSM2_CONF'
PATH='$dir/bin':\$PATH
EOF

step "A PKCS#11 token of our own, and the key service on it"
if [ ! -e "$SOFTHSM2_CONF" ]; then
    show "$here/make-token.sh" "$dir/token" quickstart
fi
ls -l "$dir/token/pin" | sed 's/^/  /'
if [ ! -e "$KMSD_HOME/kmsd.toml" ]; then
    show kmsd init --module "$(softhsm_module)" --token-label quickstart --pin-file "$dir/token/pin"
fi
start_kmsd

number=1
while ecsctl --json server show "demo$number" >/dev/null 2>&1; do number=$((number + 1)); done
server=demo$number data=demo$number-data other=demo$number-other key=demo$number-key
size=$(($(du -sm --apparent-size "$tree" | cut -f1) * 2 / 1024 + 1))G

step "A master key, born in the token; two encrypted disks under it; a server with both"
show ecsctl key create --alias "$key"
show ecsctl disk create "$data" --size "$size" --encrypted --key "$key"
show ecsctl disk create "$other" --size 1G --encrypted --key "$key"
show ecsctl server create "$server"
show ecsctl disk attach "$data" "$server"
show ecsctl disk attach "$other" "$server"

field() { ecsctl --json disk show "$1" | jq -er ".$2"; }
loop_mount() { # DISK NAME : mounts the disk's file system on $dir/mnt/NAME
    local device
    device=$(losetup --find --show --direct-io=on "$(field "$1" path)")
    echo "  \$ losetup --find --show --direct-io=on $(field "$1" path)    # $device"
    [ "${2-}" = format ] && show mkfs.ext4 -q "$device"
    mkdir -p "$dir/mnt/$1"
    show mount "$device" "$dir/mnt/$1"
    echo "$device" >"$dir/run/loop-$1"
}
loop_unmount() {
    show umount "$dir/mnt/$1"
    show losetup --detach "$(cat "$dir/run/loop-$1")"
    rm -f "$dir/run/loop-$1"
}

step "A file system on each, and real files: $tree ($(du -sh "$tree" | cut -f1), $(find "$tree" -type f | wc -l) files)"
loop_mount "$other" format
loop_mount "$data" format
show cp -a "$tree" "$dir/mnt/$data/tree"
loop_unmount "$data"

step "Is any plaintext in the volume file?"
# Lines of text from the tree, 40 characters and longer, spread over its files.
needles=$dir/run/needles
find "$tree" -type f -name '*' -size -64k -print0 | LC_ALL=C sort -z | head -z -n 4000 |
    LC_ALL=C xargs -0 grep -hIoE '[[:alnum:]][[:print:]]{39,200}' 2>/dev/null |
    awk 'NR % 53 == 1 && !seen[$0]++' | head -n 500 >"$needles" || true
[ -s "$needles" ] || die "$tree has no lines of text to search for; choose another with --tree"
hits() { LC_ALL=C grep -zacF -f "$needles" "$1" || true; }
raw_hits=$(hits "$(field "$data" path)")
echo "  searching for $(wc -l <"$needles") lines of text taken from the files"
printf '  %-30s %s\n' "in the raw view, while attached:" "$raw_hits blocks of text hold one (so the search can find them)"
[ "$raw_hits" -gt 0 ] || die "the search found nothing in the plain view, so it proves nothing"
show ecsctl disk detach "$data"
volume=$(field "$data" file)
volume_hits=$(hits "$volume")
printf '  %-30s %s\n' "in the volume file:" "$volume_hits   ($(du -h --apparent-size "$volume" | cut -f1), $volume)"
[ "$volume_hits" = 0 ] || die "plaintext stands in the volume file"

step "Attached again: is everything as it was?"
show ecsctl disk attach "$data" "$server"
loop_mount "$data"
show diff -r --no-dereference "$tree" "$dir/mnt/$data/tree"
echo "  identical: $(find "$dir/mnt/$data/tree" -type f | wc -l) files"
loop_unmount "$data"
show ecsctl disk detach "$data"

step "The master key is disabled: attaching is refused, what is attached works on"
show ecsctl key disable "$key"
echo "  \$ ecsctl disk attach $data $server"
if output=$(ecsctl disk attach "$data" "$server" 2>&1); then die "attached although its key is disabled"; fi
echo "$output" | sed 's/^/  /'
head -c 8M /dev/urandom >"$dir/run/sample"
show cp "$dir/run/sample" "$dir/mnt/$other/written-while-disabled"
sync -f "$dir/mnt/$other"
loop_unmount "$other"
loop_mount "$other"
show cmp "$dir/run/sample" "$dir/mnt/$other/written-while-disabled"
echo "  $other: 8 MiB written, read back from the disk, identical"
rm -f "$dir/run/sample" "$needles"

step "The key is enabled: it attaches again"
show ecsctl key enable "$key"
show ecsctl disk attach "$data" "$server"
loop_mount "$data"
show diff -rq --no-dereference "$tree" "$dir/mnt/$data/tree"
echo "  identical"
loop_unmount "$data"
loop_unmount "$other"
show ecsctl disk list
finished=yes

cat <<EOF

${bold}It all runs in $dir${plain}
  use it:      . $dir/env; ecsctl --help
  stop it:     $here/quickstart.sh --dir $dir --stop
  remove it:   $here/quickstart.sh --dir $dir --remove
EOF
