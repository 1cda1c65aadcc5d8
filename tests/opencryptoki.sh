#!/usr/bin/env bash
# Runs a command, as root, beside an opencryptoki of its own: slot daemon, shared memory and state are in namespaces of theirs, so that
# many can run at once and the system's own is not touched. The token (label "test", PIN in DIR/pin) is made the first time and stays in DIR.
#   tests/opencryptoki.sh DIR COMMAND [ARGUMENT...]
#   tests/opencryptoki.sh --module              prints the path of the PKCS#11 module
set -eu
self=$(readlink -f "$0")

module() {
    local file
    for file in /usr/lib/*/opencryptoki/libopencryptoki.so.0 /usr/lib/opencryptoki/libopencryptoki.so.0; do
        [ -r "$file" ] && echo "$file" && return 0
    done
    echo "error: opencryptoki's PKCS#11 module was not found; install the packages opencryptoki and libopencryptoki0" >&2
    return 1
}

slot_daemon() {
    # Private copies of all that it shares with its clients.
    mkdir -p "$dir/state"
    [ -d "$dir/state/swtok" ] || cp -a /var/lib/opencryptoki/. "$dir/state/"
    [ "${new_token-}" = 1 ] && { rm -rf "$dir/state/swtok"; mkdir -p "$dir/state/swtok/TOK_OBJ"; }
    mount --bind "$dir/state" /var/lib/opencryptoki
    mount -t tmpfs -o mode=755 none /run
    mount -t tmpfs none /dev/shm
    mkdir -p /run/opencryptoki /run/lock/opencryptoki
    local kind
    for kind in swtok tpm lite icsf ccatok ep11tok; do mkdir -p "/run/lock/opencryptoki/$kind"; done
    chgrp -R pkcs11 /run/opencryptoki /run/lock/opencryptoki "$dir/state"
    chmod -R g+rwX /run/opencryptoki /run/lock/opencryptoki "$dir/state"
    pkcsslotd </dev/null >/dev/null 2>&1 3>&-
    # It ends with this process, which becomes the command.
    (
        tail --pid=$$ --follow /dev/null
        # Known by its namespace: the file with its number may not be written yet when the command was a short one.
        for process in /proc/[0-9]*; do
            [ "$(cat "$process/comm" 2>/dev/null)" = pkcsslotd ] || continue
            [ "$(readlink "$process/ns/ipc")" = "$(readlink /proc/self/ns/ipc)" ] && kill "${process#/proc/}"
        done
    ) </dev/null >/dev/null 2>&1 3>&- &
}

# The slot daemon answers a moment after it was started.
tool() {
    local try
    for try in $(seq 200); do
        pkcs11-tool --module "$module" "$@" >"$dir/tool.log" 2>&1 && return 0
        grep -qi 'no slot\|not initialized\|C_Initialize' "$dir/tool.log" || break
        sleep 0.05
    done
    cat "$dir/tool.log" >&2
    return 1
}

case ${1-} in
--module) module ;;
--inside)
    dir=$2
    shift 2
    module=$(module)
    [ -e "$dir/pin" ] || new_token=1
    slot_daemon
    if [ "${new_token-}" = 1 ]; then
        # The SO PIN is the one that every new token has; PINs have at most 8 characters.
        pin=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
        tool --init-token --slot 3 --label test --so-pin 87654321
        tool --slot 3 --login --login-type so --so-pin 87654321 --init-pin --pin "$pin"
        (umask 077 && echo "$pin" >"$dir/pin.new" && mv "$dir/pin.new" "$dir/pin")
    else
        tool --list-slots
    fi
    exec "$@"
    ;;
*)
    dir=$(readlink -f "$1")
    shift
    exec unshare --mount --ipc "$self" --inside "$dir" "$@"
    ;;
esac
