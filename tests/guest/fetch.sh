#!/usr/bin/env bash
# Unpacks the parts of a guest into a folder, unless they are there, and prints it: a cloud kernel, the modules that it
# needs for its disks, and a static busybox. Nothing is installed.
#   fetch.sh      into target/guest, or into $ECS_GUEST
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/../../softhsm-config/packages.sh"
guest=${ECS_GUEST:-${CARGO_TARGET_DIR:-$here/../../target}/guest}
mkdir -p "$(dirname "$guest")"
guest=$(readlink -f "$guest")
# Tests that run at the same time fetch it once.
exec 9>"$guest.lock"
flock 9
if [ ! -e "$guest/complete" ]; then
    work=$(mktemp -d "$guest.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/guest" "$work/debs"
    newest_kernel() {
        local meta
        for meta in linux-image-cloud-amd64 linux-image-virtual; do      # Debian's name, Ubuntu's
            apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image-[0-9]/ { print $2; exit }'
        done | head -n 1
    }
    [ -n "$(newest_kernel)" ] || as_root apt-get -qq update >&2
    cd "$work/debs"
    apt-get -qq download busybox-static "$(newest_kernel)" >&2 || {
        as_root apt-get -qq update >&2                                  # the index is older than the archive
        apt-get -qq download busybox-static "$(newest_kernel)" >&2
    }
    for deb in *.deb; do dpkg-deb -x "$deb" "$work/root"; done
    cd "$work"
    install -m 644 root/boot/vmlinuz-* guest/vmlinuz
    cp "$(find root -path '*bin/busybox' -type f | head -n 1)" guest/busybox
    # Those that are part of the kernel are not found, and not missed.
    mkdir guest/modules
    for module in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk button evdev; do
        find root -path '*/modules/*' -name "$module.ko*" -exec cp {} guest/modules/ \;
    done
    find guest/modules -name '*.xz' -exec unxz {} +
    find guest/modules -name '*.zst' -exec unzstd --quiet --rm {} +
    touch guest/complete
    rm -rf "$guest"
    mv guest "$guest"
fi
echo "$guest"
