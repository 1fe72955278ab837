#!/bin/sh
# The tests of what is `unsafe`: sanitizers.sh FOLDER [PACKAGE]. All of them run under the address sanitizer; what needs neither
# files nor rings, the words that processes share, also in Miri, which knows what a compiler may make of an access.
#
# The standard library is not rebuilt: the address sanitizer sees every access of ours and every allocation all the same.
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

[ -z "$only" ] || [ "$only" = towline-tracker ] || exit 0
rustup component add --toolchain nightly miri rust-src
# It is some hundred times slower: few made-up cases.
PROPTEST_CASES=6 MIRIFLAGS=-Zmiri-disable-isolation \
    cargo +nightly miri test -p towline-tracker --lib --target-dir "$folder/miri" -- map::
