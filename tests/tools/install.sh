#!/bin/sh
# Installs what the tests drive us with, if it is missing. Debian's packages; root, or sudo without a password.
set -eu

# Where a plain user's path lacks the administrator's programs, they are found all the same.
PATH=$PATH:/usr/sbin:/sbin
missing=""
need() { # need PACKAGE COMMAND...
    package=$1
    shift
    for name in "$@"; do
        command -v "$name" >/dev/null 2>&1 || { missing="$missing $package"; return; }
    done
}
need fio fio
need qemu-utils qemu-img qemu-io qemu-nbd
need nbdkit nbdkit
need libnbd-bin nbdinfo nbdcopy
need attr setfattr getfattr
need strace strace
need util-linux setpriv prlimit blockdev fsfreeze
need bsdutils script
need mount mount umount losetup
need e2fsprogs mkfs.ext4 e2fsck
# For Debian's own interpreter: the first python3 on the path may be another.
/usr/bin/python3 -c 'import nbd' >/dev/null 2>&1 || missing="$missing python3-libnbd"

[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null || {
        echo "the tests need these packages:$missing; install them, or run this as root" >&2
        exit 1
    }
    as_root="sudo -n"
fi
command -v apt-get >/dev/null 2>&1 || {
    echo "the tests need these (Debian's names):$missing; there is no apt-get here: install them" >&2
    exit 1
}
$as_root apt-get update </dev/null || echo "apt-get update failed; trying with the lists that are there" >&2
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing </dev/null || {
    echo "the tests need these packages and they can't be installed:$missing" >&2
    exit 1
}
