#!/bin/sh
# Installs what only the benches need, if it is missing: the peers that no test needs. Debian's packages; root, or sudo
# without a password.
set -eu

missing=""
need() { # need PACKAGE COMMAND
    command -v "$2" >/dev/null 2>&1 || missing="$missing $1"
}
need restic restic
need borgbackup borg
need rclone rclone
need valgrind valgrind

[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null || {
        echo "the benches need these packages:$missing; install them, or run this as root" >&2
        exit 1
    }
    as_root="sudo -n"
fi
command -v apt-get >/dev/null 2>&1 || {
    echo "the benches need these (Debian's names):$missing; there is no apt-get here: install them" >&2
    exit 1
}
$as_root apt-get update </dev/null || echo "apt-get update failed; trying with the lists that are there" >&2
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing </dev/null || {
    echo "the benches need these packages and they can't be installed:$missing" >&2
    exit 1
}
