#!/bin/sh
# The tests of what is `unsafe`, under the address sanitizer: sanitizers.sh FOLDER [PACKAGE].
#
# The standard library is not rebuilt (that needs its source, a component of rustup): this sanitizer sees every access of
# ours and every allocation all the same.
set -eu

folder=$1 only=${2-}
cargo=${CARGO-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')
# The sanitizer needs a nightly compiler, or a stable one that is told to be as free.
export RUSTC_BOOTSTRAP=1

run() { # run PACKAGE FILTER...
    package=$1
    shift
    [ -z "$only" ] || [ "$only" = "$package" ] || return 0
    # In a build of its own; the host's name keeps build scripts and macros outside.
    RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer" \
        $cargo test -p "$package" --lib --target "$host" --target-dir "$folder/sanitizer-address" -- "$@"
}

run towline-tracker io:: control:: map:: sidecar:: socket
run towline source:: ship::stop cli::background
