#!/bin/sh
# Region coverage of what the fuzzing targets feed, over the committed inputs: fuzz-coverage.sh FOLDER [TARGET] [MORE].
# Writes tests/COVERAGE.md, and fails if a row is below 90 %; with TARGET it only prints, and lists the lines that nothing reached. MORE is a folder of
# corpora beside the committed one.
set -eu

folder=$1/fuzz-coverage only=${2-} more=${3-}
here=$(cd "$(dirname "$0")/.." && pwd)
root=$(dirname "$here")
cargo=${CARGO-cargo}

# Profiles are read by the LLVM that wrote them.
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
tools=/usr/lib/llvm-$llvm/bin
if ! [ -x "$tools/llvm-cov" ] || ! command -v jq >/dev/null; then
    apt-get install -y --no-install-recommends "llvm-$llvm" jq </dev/null || {
        echo "the report needs Debian's packages llvm-$llvm (backports or security) and jq: install them" >&2
        exit 1
    }
fi

# Not under libFuzzer's instrumentation: its programs run the inputs that they are given, one after another.
# shellcheck disable=SC2086 # no word or two
(cd "$here/fuzz" && RUSTFLAGS='-C instrument-coverage' $cargo build --release --target-dir "$folder" ${only:+--bin "$only"})

# Of the regions in $file, in functions with one of $words in their names, each once: how many, how many reached, and the
# lines of the others. A function of one region of one letter is what a derive macro wrote: those have no counters.
count='
[.data[0].functions[] | select((.regions | length) > 1 or .regions[0][3] - .regions[0][1] > 1)
    | select(.name as $name | ($words | length) == 0 or any($words[]; . as $word | $name | contains($word)))
    | .filenames as $files | .regions[] | select(.[7] == 0 and ($files[.[5]] | endswith("/" + $file)))]
| group_by(.[0:4]) | map({line: .[0][0], reached: (map(.[4]) | add > 0)})
| [length, (map(select(.reached)) | length), ([.[] | select(.reached | not) | .line] | unique | join(" "))] | @tsv'

targets=${only:-$(sed -n 's/^\([a-z_]*\) .*/\1/p' "$here/fuzz/decoders" | uniq)}
table=$folder/table
printf '| target | file | functions | regions | reached | %% |\n|---|---|---|---|---|---|\n' >"$table"
for target in $targets; do
    program=$folder/release/$target profile=$folder/$target.profdata
    rm -f "$folder/$target"-*.profraw
    find "$here/fuzz/corpus/$target" "$here/fuzz/failures/$target" ${more:+"$more/$target"} -type f 2>/dev/null | sort |
        LLVM_PROFILE_FILE=$folder/$target-%p.profraw xargs "$program" >"$folder/$target.log" 2>&1
    "$tools/llvm-profdata" merge -sparse "$folder/$target"-*.profraw -o "$profile"
    # shellcheck disable=SC2046 # a list of files
    "$tools/llvm-cov" export "$program" -instr-profile="$profile" \
        -sources $(sed -n "s|^$target \\([^ ]*\\).*|$root/\\1|p" "$here/fuzz/decoders") >"$folder/$target.json" 2>/dev/null
    sed -n "s/^$target //p" "$here/fuzz/decoders" | while read -r file words; do
        jq -r --arg file "$file" --arg words "$words" "(\$words | split(\" \")) as \$words | $count" "$folder/$target.json" |
            while IFS='	' read -r regions reached missed; do
                share=$(awk "BEGIN { printf \"%.1f\", $regions ? 100 * $reached / $regions : 0 }")
                echo "| $target | $file | $words | $regions | $reached | $share |" >>"$table"
                [ -z "$only" ] || echo "$file: $missed"
            done
    done
done
cat "$table"
# it/fuzz.rs asks the same of the committed table.
low=$(awk -F ' *[|] *' 'NR > 2 && $7 < 90' "$table")
[ -z "$low" ] || printf 'below 90 %%:\n%s\n' "$low" >&2
if [ -n "$only" ]; then
    [ -z "$low" ]
    exit
fi
{
    echo '# Region coverage of what reads foreign bytes'
    echo
    echo "Made by \`make fuzz-coverage\`: each target of \`tests/src/fuzz\` over its committed inputs (\`tests/fuzz/corpus\`,"
    echo "\`tests/fuzz/failures\`), counted in the files, or functions, of \`tests/fuzz/decoders\`. A function that is compiled for"
    echo "several types counts once. Where functions are named, no foreign byte meets the others unread: they write, make names, or"
    echo "look up what the named ones have accepted. Not counted is what derive macros write (\`control/message.rs\` is nothing else): the compiler"
    echo "gives that no counters. \`make fuzz-coverage TARGET=name\` lists the lines that are not reached."
    echo
    cat "$table"
} >"$here/COVERAGE.md"
[ -z "$low" ]
