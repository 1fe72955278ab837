#!/bin/sh
# Installs the servers of objects that the tests drive us against into FOLDER, each once for each version of it: s3s-fs (S3,
# built here: some four minutes of a processor), moto (S3 with versions and object lock), Azurite (Azure Blob, with a Node
# of its own: Debian's is too old).
#
# servers.sh FOLDER
set -eu

folder=$1
mkdir -p "$folder"
cd "$folder"

once() { # once NAME VERSION COMMAND...: runs the command with the folder to fill, unless that is done; it gets the name NAME
    name=$1
    home=$1-$2
    shift 2
    if [ ! -e "$home/.done" ]; then
        echo "installing $home"
        rm -rf "$home"
        mkdir "$home"
        "$@" "$PWD/$home" </dev/null || {
            echo "the tests need $home and it can't be installed" >&2
            exit 1
        }
        : >"$home/.done"
    fi
    ln -sfn "$home" "$name"
}

s3s_fs() {
    # Not with the flags and the target folder of whoever builds us.
    env -u RUSTFLAGS -u CARGO_TARGET_DIR cargo install s3s-fs --version 0.14.1 --features binary --locked --quiet \
        --root "$1" --target-dir "$1/build" && rm -rf "$1/build"
}
# Scripts of a virtual environment know their place: it is made where it stays.
moto() {
    /usr/bin/python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.2.5'
}
azurite() {
    npm install --prefix "$1" --no-audit --no-fund --loglevel=error azurite@3.37.0 node@22
}

once s3s-fs 0.14.1 s3s_fs
once moto 5.2.5 moto
once azurite 3.37.0 azurite
