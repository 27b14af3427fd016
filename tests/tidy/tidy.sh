#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the tree against the rules of the house and prints "file:line: rule" for each breach.
#   tidy.sh source ROOT              text of the sources, names and sizes of files
#   tidy.sh headers ROOT CC [FLAG]   every header compiles alone
#   tidy.sh symbols BUILD            global symbols of our libraries begin with shoal_
# Needs POSIX sh, awk, find and, for symbols, nm. With git, only files that git would keep are judged.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 2' HUP INT TERM
found=$scratch/found
: >"$found"

# The files of ROOT, one a line, without "./".
list_files() {
    if [ -e "$1/.git" ] && command -v git >/dev/null 2>&1; then
        git -C "$1" ls-files -co --exclude-standard
    else
        (cd "$1" && find . -type f ! -path './.git/*' ! -path './build/*' ! -path './.run/*' ! -path '*/__pycache__/*' | sed 's|^\./||')
    fi | sort -u | while IFS= read -r file; do
        if [ -f "$1/$file" ] && [ ! -L "$1/$file" ]; then
            printf '%s\n' "$file"
        fi
    done
}

# Files of the list whose first two lines lack the licence.
check_spdx() {
    grep -E '(\.(c|h|inc|S|sh|awk|py|cmake|proto)|/CMakeLists\.txt|^CMakeLists\.txt)$' "$scratch/files" |
        while IFS= read -r file; do
            head -n 2 "$file" | grep -q 'SPDX-License-Identifier: Apache-2\.0' ||
                echo "$file:1: no SPDX-License-Identifier line"
        done
}

check_sizes() {
    grep -v '^deploy/models/' "$scratch/files" | while IFS= read -r file; do
        bytes=$(wc -c <"$file")
        if [ "$bytes" -gt 262144 ]; then
            echo "$file:1: $((bytes / 1024)) KiB, larger than 256 KiB: blobs stay out of git"
        fi
    done
}

# The word is written in two parts, here and in the test of this script, so that neither is found.
check_fixme() {
    word=FIX
    grep -v '^LICENSE$' "$scratch/files" | tr '\n' '\0' | xargs -0 grep -nIw "${word}ME" /dev/null |
        grep -v 'tidy-allow:' | sed -E 's/^([^:]*:[0-9]+):.*/\1: fix it, or write what hurts and when/'
}

check_readmes() {
    grep -E '^(common|protocol|edge|cloud)/.*README\.md$' "$scratch/files" | while IFS= read -r file; do
        lines=$(wc -l <"$file")
        [ "$lines" -le 60 ] || echo "$file:$lines: README longer than 60 lines"
    done
}

# Public functions that nothing calls, and those that tests alone call and seams.txt does not say what for.
check_dead_functions() {
    grep -E '^(common|protocol|edge|cloud)/.*\.(c|h|inc)$' "$scratch/files" >"$scratch/product"
    grep -E '^tests/.*\.(c|h|inc)$' "$scratch/files" >"$scratch/tests"
    awk -v product="$scratch/product" -v tests="$scratch/tests" -v seams=tests/tidy/seams.txt -f "$here/dead.awk" | sort
}

# A source that no list file of its folder or of a folder above it names is never built.
check_dead() {
    grep -E '^(common|protocol|edge|cloud)/.*\.c$' "$scratch/files" | while IFS= read -r file; do
        base=$(basename "$file")
        folder=$(dirname "$file")
        alive=no
        while [ "$folder" != . ] && [ $alive = no ]; do
            if [ -f "$folder/CMakeLists.txt" ] &&
                awk -v a="$base" -v b="${base%.c}" '{
                    n = split($0, words, /[^A-Za-z0-9_.\/-]+/)
                    for (i = 1; i <= n; i++) {
                        sub(/^.*\//, "", words[i])
                        if (words[i] == a || words[i] == b) { hit = 1 }
                    }
                } END { exit !hit }' "$folder/CMakeLists.txt"; then
                alive=yes
            fi
            folder=$(dirname "$folder")
        done
        [ $alive = yes ] || echo "$file:1: dead file: no CMakeLists.txt names it"
    done
}

check_source() {
    list_files . >"$scratch/files"
    grep -E '\.[ch]$' "$scratch/files" >"$scratch/sources"
    if [ -s "$scratch/sources" ]; then
        tr '\n' '\0' <"$scratch/sources" | xargs -0 awk -f "$here/source.awk"
    fi
    check_spdx
    check_sizes
    check_fixme
    check_readmes
    check_dead
    check_dead_functions
}

check_headers() {
    list_files . | grep -E '^(common|protocol|edge|cloud|tests/support)/.*\.h$' | while IFS= read -r header; do
        printf '#include "%s"\n' "$header" >"$scratch/alone.c"
        # Headers of a vector tier are included only by files built for it.
        case $header in
        */avx512_*) tier="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c" ;;
        */avx2_*) tier="-mavx2 -mfma -mf16c" ;;
        *) tier= ;;
        esac
        # shellcheck disable=SC2086  # one word per flag
        "$@" $tier -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wno-unused -Werror -I. -fsyntax-only \
            "$scratch/alone.c" >"$scratch/said" 2>&1 || {
            echo "$header:1: does not compile alone"
            sed 's/^/    /' "$scratch/said" | head -n 6
        }
    done
}

# Names that begin with __ come from compilers and sanitizers; C has reserved them.
check_symbols() {
    find . -name 'libshoal*.a' ! -name '*_external.a' | sort | while IFS= read -r library; do
        nm -g --defined-only "$library" 2>/dev/null | awk -v library="${library#./}" '
            /:$/ { object = substr($1, 1, length($1) - 1); next }
            NF == 3 && $3 !~ /^shoal_/ && $3 !~ /^__/ {
                printf "%s:1: global symbol %s of %s does not begin with shoal_\n", library, $3, object
            }'
    done
}

what=${1:-}
folder=${2:-}
if [ -z "$folder" ] || ! cd "$folder"; then
    echo "usage: tidy.sh source ROOT | headers ROOT CC [FLAG...] | symbols BUILD" >&2
    exit 2
fi
shift 2
case $what in
source) check_source >"$found" ;;
headers) check_headers "$@" >"$found" ;;
symbols) check_symbols >"$found" ;;
*)
    echo "tidy.sh: $what is none of source, headers, symbols" >&2
    exit 2
    ;;
esac
cat "$found"
[ ! -s "$found" ]
