#!/bin/sh
# The tests of what is `unsafe` or shared by threads: sanitizers.sh FOLDER [PACKAGE [address|thread|miri]].
#
# address   what is unsafe; every access of ours and every allocation
# thread    what has threads; the standard library and the crates are built for it too, so it knows every lock and channel there
#           is and nothing has to be excused: a report is a data race
# miri      what needs neither files nor rings: maps, buffers, formats; it knows what a compiler may make of an access
set -eu

folder=$1 package=${2-} only=${3-}
case $package in '' | towline-tracker | towline) ;; *) echo "$0: no package $package here" >&2 && exit 2 ;; esac
case $only in '' | address | thread | miri) ;; *) echo "$0: $only is none of address, thread, miri" >&2 && exit 2 ;; esac
cargo=${CARGO-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')

wanted() { # wanted SANITIZER PACKAGE
    [ "${only:-$1}" = "$1" ] && [ "${package:-$2}" = "$2" ]
}

nightly() { # nightly COMPONENT...: there is a nightly compiler with them
    command -v rustup >/dev/null || { echo "$0: rustup is missing, and with it the nightly compiler" >&2 && exit 1; }
    # One that is here stays what it is.
    rustup toolchain list | grep -q "^nightly-$host" || rustup toolchain install nightly --profile minimal
    rustup component add --toolchain nightly "$@"
}

address() { # address PACKAGE TARGETS FILTER...
    wanted address "$1" || return 0
    tests=$1 targets=$2
    shift 2
    # In a build of its own; the host's name keeps build scripts and macros outside. A stable compiler has the sanitizer if it
    # is told to be as free as a nightly one.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer" \
        $cargo test -p "$tests" $targets --target "$host" --target-dir "$folder/sanitizer-address" -- "$@"
}

thread() { # thread PACKAGE TARGETS FILTER...
    wanted thread "$1" || return 0
    tests=$1 targets=$2
    shift 2
    nightly rust-src
    alarm
    RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" rustup run nightly cargo test -Zbuild-std \
        -p "$tests" $targets --target "$host" --target-dir "$folder/sanitizer-thread" -- "$@"
}

alarm() { # A sanitizer that is silent about a race would be silent about everything.
    mkdir -p "$folder/sanitizer-thread"
    rustup run nightly rustc -Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --edition 2024 --crate-name race \
        -o "$folder/sanitizer-thread/race" - <<'END'
static mut SHARED: u64 = 0;
fn main() {
    let add = || unsafe { (&raw mut SHARED).write_volatile((&raw const SHARED).read_volatile() + 1) };
    let other = std::thread::spawn(add);
    add();
    other.join().unwrap();
}
END
    ! "$folder/sanitizer-thread/race" 2>"$folder/sanitizer-thread/race.log" &&
        grep -q 'WARNING: ThreadSanitizer: data race' "$folder/sanitizer-thread/race.log" ||
        { echo "$0: the thread sanitizer does not notice a data race" >&2 && exit 1; }
}

address towline-tracker '--lib --bins' io:: control:: map:: sidecar:: socket
address towline --lib source:: ship::stop cli::background

thread towline-tracker '--lib --bins'
# What has threads: what is in the vault is plain calculation.
# One test is left out: it wants more than 30 puts, and how many checkpoints are put depends on how slow the putters are (here
# 29 or 30 at times). Its threads are those of the others in `pipeline`.
thread towline --lib source:: pipeline:: ship:: store:: restore:: verify:: unfinished:: cli::background \
    --skip a_shipper_killed_at_any_put

wanted miri towline-tracker || exit 0
nightly miri rust-src
# It is some hundred times slower: few made-up cases, and without what takes thousands of rounds or opens a disk.
PROPTEST_CASES=2 MIRIFLAGS=-Zmiri-disable-isolation \
    rustup run nightly cargo miri test -p towline-tracker --lib --target-dir "$folder/miri" -- \
    map:: io::buffer disk:: format::envelope format::changes format::meta control::frame engine::pace engine::slab nbd::wire \
    --skip engine::disk --skip many_failures
