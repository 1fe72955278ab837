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
need xfsprogs mkfs.xfs
need btrfs-progs mkfs.btrfs
need util-linux chrt
need busybox-static busybox
need binutils strip
need xz-utils xz
need qemu-system-x86 qemu-system-x86_64
need npm npm
need openssl openssl
# For Debian's own interpreter: the first python3 on the path may be another.
/usr/bin/python3 -c 'import nbd' >/dev/null 2>&1 || missing="$missing python3-libnbd"
/usr/bin/python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"

# Debian 12 has an old QEMU and an old kernel: newer ones come from its backports, by the way that its own packages come.
. /etc/os-release
backports=""
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    sources=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' | sort -u)
    case $sources in
    *bookworm-backports*) ;;
    *) backports=$(echo "$sources" | sed -n 's/^bookworm //p' | head -n 1) ;;
    esac
fi

[ -n "$missing$backports" ] || exit 0
echo "installing:$missing${backports:+ (and the source of backports)}"
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
if [ -n "$backports" ]; then
    {
        printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\n' "$backports"
        key=/usr/share/keyrings/debian-archive-keyring.gpg
        [ ! -e "$key" ] || echo "Signed-By: $key"
    } | $as_root tee /etc/apt/sources.list.d/towline-backports.sources >/dev/null
fi
$as_root apt-get update </dev/null || echo "apt-get update failed; trying with the lists that are there" >&2
install() { # install PACKAGE..., or OPTION PACKAGE...
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null || {
        echo "the tests need these packages and they can't be installed: $*" >&2
        exit 1
    }
}
case $missing in
*qemu-system-x86*)
    if [ "${VERSION_CODENAME:-}" = bookworm ]; then
        install -t bookworm-backports qemu-system-x86
        missing=$(echo "$missing" | sed 's/ qemu-system-x86//')
    fi
    ;;
esac
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || install $missing
