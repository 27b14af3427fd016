#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Asks judges that others have written; each breach is a line, and none may be left.
#   judge.sh shell ROOT         shellcheck on every script
#   judge.sh spelling ROOT      codespell on every text
#   judge.sh cppcheck ROOT      cppcheck on the C sources; some minutes
#   judge.sh clang-tidy ROOT BUILD   clang-tidy with .clang-tidy on what BUILD compiles; an hour
# Exit status 77: the judge is not installed (deploy/deps installs those of the first two).
set -u
what=${1:-}
root=${2:-}
if [ -z "$root" ] || ! cd "$root"; then
    echo "usage: judge.sh shell|spelling|cppcheck ROOT, judge.sh clang-tidy ROOT BUILD" >&2
    exit 2
fi

git rev-parse --git-dir >/dev/null 2>&1 || {
    echo "judge.sh: $root is no checkout: which files are ours is not known"
    exit 77
}

need() {
    command -v "$1" >/dev/null || {
        echo "judge.sh: $1 is not installed"
        exit 77
    }
}

# Files of the tree whose first line names a shell.
scripts() {
    git ls-files | while IFS= read -r file; do
        if [ -f "$file" ] && [ ! -L "$file" ]; then
            case $(head -n 1 "$file" 2>/dev/null | tr -d '\0') in
            '#!/bin/sh'* | '#!/bin/bash'* | '#!/usr/bin/env bash'*) printf '%s\n' "$file" ;;
            esac
        fi
    done
}

case $what in
shell)
    need shellcheck
    scripts | tr '\n' '\0' | xargs -0 shellcheck --external-sources --format gcc
    ;;
spelling)
    need codespell
    # Words of other languages, of formats and of test data are in the list beside this script.
    git ls-files ':!:*.svg' ':!:*.gguf' ':!:*.json' ':!:tests/fuzz/corpus' ':!:tests/golden/data' ':!:LICENSE' | tr '\n' '\0' |
        xargs -0 codespell --ignore-words tests/tidy/words.txt
    ;;
cppcheck)
    need cppcheck
    # What is told about the tree as a whole (unused functions, missing headers) is the compiler's and tidy.sh's.
    git ls-files 'common/*.c' 'protocol/*.c' 'edge/*.c' 'cloud/*.c' | tr '\n' '\0' |
        xargs -0 cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -I . \
            --suppress=missingIncludeSystem --template='{file}:{line}: {severity}: {message} [{id}]'
    ;;
clang-tidy)
    need clang-tidy-14
    build=${3:?judge.sh clang-tidy ROOT BUILD}
    git ls-files 'common/*.c' 'protocol/*.c' 'edge/*.c' 'cloud/*.c' | tr '\n' '\0' |
        xargs -0 -n 1 clang-tidy-14 --quiet --warnings-as-errors='*' -p "$build" 2>/dev/null
    ;;
*)
    echo "judge.sh: $what is none of shell, spelling, cppcheck, clang-tidy" >&2
    exit 2
    ;;
esac
