#!/bin/sh
# Fetches the kernel of the machine whose power is cut (tests/src/powercuts), with the few modules that it needs, into a folder.
# Debian's package for clouds, unpacked and not installed. usage: guest.sh FOLDER
set -eu

to=$1
modules="virtio_blk libcrc32c xfs raid6_pq xor btrfs"
there() {
    [ -e "$to/vmlinuz" ] || return 1
    for module in $modules; do [ -e "$to/$module.ko" ] || return 1; done
}
there && exit 0

. /etc/os-release
suite=""
[ "${VERSION_CODENAME:-}" != bookworm ] || suite=/bookworm-backports
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fetch() {
    name=$(apt-cache depends "linux-image-cloud-amd64$suite" | sed -n 's/^ *Depends: *//p' | head -n 1)
    [ -n "$name" ] && apt-get -o APT::Sandbox::User=root download "$name$suite" </dev/null
}
fetch || { apt-get update </dev/null && fetch; } || {
    echo "the tests need the kernel of Debian's linux-image-cloud-amd64$suite, and it can't be fetched" >&2
    exit 1
}
dpkg-deb -x ./*.deb .
mkdir -p "$to"
for module in $modules; do
    packed=$(find . -name "$module.ko.xz")
    [ -n "$packed" ] || { echo "the kernel has no module $module" >&2; exit 1; }
    xz -dc "$packed" >"$to/$module.ko"
done
# Last, and at once: it says that all is there.
cp boot/vmlinuz-* "$to/vmlinuz.new"
mv "$to/vmlinuz.new" "$to/vmlinuz"
