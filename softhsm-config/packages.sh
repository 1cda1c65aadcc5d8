# Sourced by quickstart.sh and tests/run.sh: installs Debian or Ubuntu packages, as root or by sudo, only what is missing.
# shellcheck shell=bash

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "error: '$*' must run as root; run this script as root, or install sudo" >&2
        return 1
    fi
}

# The directories that a minimal root shell or an ordinary user may lack.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

softhsm_module() {
    local file
    for file in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
        if [ -r "$file" ]; then
            echo "$file"
            return 0
        fi
    done
    return 1
}

# require_packages COMMAND=PACKAGE... : a package is wanted when its command is not there.
require_packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    softhsm_module >/dev/null || missing+=(softhsm2)
    # A compiler alone does not link: Debian only recommends the C library's headers and start files with it.
    [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "error: this system has no apt-get; install by hand: $*" >&2
        return 1
    fi
    echo "installing packages: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# QEMU and its image tool. They must be of one version: where the tool is there already and came from Debian's backports, so
# does the rest. The system's own list of sources stays as it is.
require_qemu() {
    command -v qemu-img >/dev/null && command -v qemu-system-x86_64 >/dev/null && return
    install_packages qemu-utils qemu-system-x86 && return
    local suite list status
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME-backports")
    echo "trying $suite"
    list=$(mktemp) && chmod 644 "$list" || return 1
    { cat /etc/apt/sources.list 2>/dev/null; echo "deb http://deb.debian.org/debian $suite main"; } >"$list"
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        apt-get -qq -o Dir::Etc::SourceList="$1" update &&
        apt-get -qq -o Dir::Etc::SourceList="$1" install -y --no-install-recommends -t "$2" qemu-utils qemu-system-x86 >/dev/null
    ' sh "$list" "$suite"
    status=$?
    rm -f "$list"
    return $status
}

# What building needs besides a Rust toolchain.
require_rust() {
    [ -f "$HOME/.cargo/env" ] && ! command -v cargo >/dev/null && . "$HOME/.cargo/env"
    command -v cargo >/dev/null || {
        echo "error: cargo was not found; install a Rust toolchain (1.89 or later), see https://rustup.rs" >&2
        return 1
    }
}

require_fuse() {
    [ -c /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
    [ -c /dev/fuse ] || {
        echo "error: /dev/fuse is missing; load the kernel module (modprobe fuse), or give the container the device" >&2
        return 1
    }
}

# require_filesystems TYPE... : those that the tests put on disks.
require_filesystems() {
    local type missing=()
    for type in "$@"; do
        # This fails, since /dev/null holds none. The kernel loads the module for it first, also where there is no modprobe.
        grep -qw "$type" /proc/filesystems || as_root mount -t "$type" /dev/null / 2>/dev/null || true
        grep -qw "$type" /proc/filesystems || missing+=("$type")
    done
    [ ${#missing[@]} = 0 ] || {
        echo "error: this kernel has no ${missing[*]}, which tests use; load the modules (modprobe), or use a kernel that has them" >&2
        return 1
    }
}
