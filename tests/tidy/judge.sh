#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Asks judges that others have written; each breach is a line, and none may be left.
#   judge.sh shell ROOT         shellcheck on every script
#   judge.sh spelling ROOT      codespell on every text
#   judge.sh cppcheck ROOT      cppcheck on the C sources; some minutes
#   judge.sh clang-tidy ROOT BUILD [CHECKS]   clang-tidy with .clang-tidy on what BUILD compiles; six minutes, three
#                                minutes with CHECKS -clang-analyzer-*
# Exit status 77: the judge is not installed (deploy/deps installs the first two, deploy/deps --long the others).
set -u
what=${1:-}
root=${2:-}
if [ -z "$root" ] || ! cd "$root"; then
    echo "usage: judge.sh shell|spelling|manuals|rules|packages|cppcheck ROOT, judge.sh units|clang-tidy ROOT BUILD" >&2
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
manuals)
    need mandoc
    mandoc -T lint -W warning deploy/debian/*.1
    ;;
rules)
    need promtool
    said=$(promtool check rules --lint-fatal deploy/monitoring/alerts.yaml 2>&1 &&
        promtool test rules deploy/monitoring/alerts_test.yaml 2>&1) || {
        printf '%s\n' "$said"
        exit 1
    }
    ;;
units)
    need systemd-analyze
    said=$(SHOAL_SOURCE_DIR=$PWD SHOAL_BIN_DIR=${3:?judge.sh units ROOT BUILD}/bin PYTHONDONTWRITEBYTECODE=1 \
        python3 tests/integration/test_units.py test_units_are_what_systemd_takes test_units_expose_little) || {
        printf '%s\n' "$said"
        exit 1
    }
    ;;
packages)
    need lintian
    set -- build/package/shoal_*.changes
    [ -f "$1" ] || {
        echo "judge.sh: no packages in build/package: deploy/package builds them"
        exit 77
    }
    lintian --allow-root --fail-on error,warning "$@"
    ;;
cppcheck)
    need cppcheck
    # What is told about the tree as a whole (unused functions, missing headers) is the compiler's and tidy.sh's.
    git ls-files 'common/*.c' 'protocol/*.c' 'edge/*.c' 'cloud/*.c' | tr '\n' '\0' |
        xargs -0 cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -I . \
            -USHOAL_SIMD_EMULATED --suppressions-list=tests/tidy/cppcheck.txt --suppress=missingIncludeSystem \
            --template='{file}:{line}: {severity}: {message} [{id}]'
    ;;
clang-tidy)
    need clang-tidy-14
    build=${3:?judge.sh clang-tidy ROOT BUILD}
    checks=${4:-}
    commands=$(mktemp -d) || exit 1
    trap 'rm -rf "$commands"' EXIT
    # Options that Clang has not.
    sed 's/ -Wlogical-op\b//g; s/ -Wduplicated-cond\b//g; s/ -fno-tree-reassoc\b//g' "$build/compile_commands.json" \
        >"$commands/compile_commands.json" || exit 1
    # The examples are built as an application would build them, kernels of ARM by another compiler.
    git ls-files 'common/*.c' 'protocol/*.c' 'edge/*.c' 'cloud/*.c' ':!:edge/client/examples' ':!:common/kernels/neon_*' |
        tr '\n' '\0' |
        xargs -0 -P "$(nproc)" -n 1 clang-tidy-14 --quiet --warnings-as-errors='*' ${checks:+--checks="$checks"} \
            -p "$commands" 2>"$commands/said" | grep -v '^$'
    # clang-tidy counts what it has passed over; what else it says is that a file was not judged.
    grep -E 'error:|Error while' "$commands/said" && exit 1
    ! grep -q 'warnings treated as errors' "$commands/said"
    ;;
*)
    echo "judge.sh: $what is none of shell, spelling, manuals, rules, units, packages, cppcheck, clang-tidy" >&2
    exit 2
    ;;
esac
