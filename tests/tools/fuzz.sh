#!/bin/sh
# Runs fuzzing targets: fuzz.sh SECONDS FOLDER [TARGET [SANITIZER]]. Each goes on from its corpus in FOLDER, seeded by the committed
# one. What fails is kept in tests/fuzz/failures, where `make test` runs it from then on.
set -eu

seconds=$1 folder=$2 only=${3-} sanitizer=${4:-address}
here=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO-cargo}
version=0.13.2 # of cargo-fuzz

$cargo fuzz --version >/dev/null 2>&1 || $cargo install cargo-fuzz --version "$version" --locked
# The sanitizer needs a nightly compiler, or a stable one that is told to be as free.
export RUSTC_BOOTSTRAP=1
# shellcheck disable=SC2086 # no word or one
(cd "$here/fuzz" && $cargo fuzz build --fuzz-dir . --sanitizer "$sanitizer" --target-dir "$folder/fuzz-$sanitizer" $only)
programs=$folder/fuzz-$sanitizer/$(rustc -vV | sed -n 's/^host: //p')/release
commit=$(git -C "$here" rev-parse --short HEAD)$(git -C "$here" diff --quiet HEAD -- && true || echo +)
# Fuzzing is bounded by what the sanitizer does beside: nobody needs to know where memory came from that was freed.
export ASAN_OPTIONS=${ASAN_OPTIONS-detect_stack_use_after_return=0:malloc_context_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=64}
failed=0

printf '%-14s %12s %9s\n' target executions failures
for target in ${only:-$(sed -n 's/^name = "\(.*\)"/\1/p' "$here/fuzz/Cargo.toml" | tail -n +2)}; do
    corpus=$folder/fuzz-corpus/$target found=$here/fuzz/failures/$target log=$folder/fuzz-$target.log
    mkdir -p "$corpus" "$found"
    before=$(ls "$found" | wc -l)
    # A stack overflow or a timeout is a failure as a panic is; no input may take 256 MiB at once. Without a sanitizer
    # only what a process has in all is bounded; but there are several times as many executions.
    "$programs/$target" "$corpus" "$here/fuzz/corpus/$target" -max_total_time="$seconds" -max_len=1024 -timeout=10 \
        -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1 -artifact_prefix="$found/" \
        >"$log" 2>&1 && ended=0 || ended=$?
    failures=$(($(ls "$found" | wc -l) - before))
    [ "$ended" -eq 0 ] || [ "$failures" -gt 0 ] || { tail -n 20 "$log" >&2; exit 1; }
    [ "$failures" -eq 0 ] || { failed=1; grep -m 3 -E 'panicked|ERROR:' -A 3 "$log" >&2 || true; }
    rmdir "$found" 2>/dev/null || true
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf '%-14s %12s %9s\n' "$target" "$executions" "$failures"
    echo "| $(date -u '+%F %H:%M') | $commit | fuzz | $executions | $failures | $target |" >>"$here/CAMPAIGNS.md"
done
exit $failed
