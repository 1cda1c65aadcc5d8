#!/usr/bin/env bash
# Makes a private SoftHSM token in DIR with random PINs:
#   make-token.sh DIR [LABEL]
# DIR/softhsm2.conf   for SOFTHSM2_CONF          DIR/tokens/   the token's objects
# DIR/pin             the user PIN, for kmsd     DIR/so-pin    the security officer's PIN, to be kept elsewhere
# Everything in DIR can be read by its owner only. An existing token is never touched.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/packages.sh"

[ $# -ge 1 ] || { echo "usage: make-token.sh DIR [LABEL]" >&2; exit 2; }
label=${2:-ecs}
module=$(softhsm_module) || { echo "error: the SoftHSM module was not found; install the package softhsm2" >&2; exit 1; }
command -v pkcs11-tool >/dev/null || { echo "error: pkcs11-tool was not found; install the package opensc" >&2; exit 1; }

umask 077
mkdir -p "$1"
dir=$(readlink -f "$1")
[ ! -e "$dir/softhsm2.conf" ] || { echo "error: $dir already holds a token" >&2; exit 1; }
chmod 700 "$dir"
mkdir -p "$dir/tokens"
random_pin() { od -An -vtx1 -N16 /dev/urandom | tr -d ' \n'; }
random_pin >"$dir/pin"
random_pin >"$dir/so-pin"
sed "s|@TOKEN_DIR@|$dir/tokens|" "$here/softhsm2.conf.in" >"$dir/softhsm2.conf"

# pkcs11-tool takes PINs as an argument, which every user of the machine could read, or from its environment,
# which only this user can: so the latter, for the two short-lived processes that need them.
export SOFTHSM2_CONF=$dir/softhsm2.conf
so_pin=$(cat "$dir/so-pin") pin=$(cat "$dir/pin")
quietly() {
    local output
    output=$(SO_PIN=$so_pin USER_PIN=$pin "$@" 2>&1) || { echo "$output" >&2; echo "error: $1 could not make the token" >&2; exit 1; }
}
quietly pkcs11-tool --module "$module" --slot-index 0 --init-token --label "$label" --so-pin env:SO_PIN
quietly pkcs11-tool --module "$module" --token-label "$label" --login --login-type so --so-pin env:SO_PIN \
    --init-pin --new-pin env:USER_PIN
echo "token '$label' made in $dir"
