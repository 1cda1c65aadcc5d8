#!/usr/bin/env bash
# Makes the Python environment of the client tests, unless it is there and current, and prints its interpreter.
#   venv.sh      in target/clients-venv, or in $ECS_CLIENTS_VENV
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
venv=${ECS_CLIENTS_VENV:-${CARGO_TARGET_DIR:-$here/../../target}/clients-venv}
mkdir -p "$(dirname "$venv")"
# Tests that run at the same time make it once.
exec 9>"$venv.lock"
flock 9
# The interpreter that it was made with goes when the system is upgraded.
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt" || ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
    cp "$here/requirements.txt" "$venv/requirements.txt"        # last: it says that all the rest is there
fi
echo "$venv/bin/python"
