#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The manual page and the completions of the program $1 say what its --help says, and their readers take them. Readers that
# are not installed are passed over: bash always is.
set -u
shoal=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
fail() {
    echo "$1" >&2
    failed=1
}
"$shoal" manual >"$folder/shoal.1" || fail "no manual"
options=$("$shoal" --help | grep -oE '^  (-., )?--[a-z-]+' | grep -oE -- '--[a-z-]+')
[ "$(wc -l <<<"$options")" -ge 15 ] || fail "--help has only: $options"
for shell in bash zsh fish; do
    "$shoal" completion $shell >"$folder/shoal.$shell" || fail "no completion for $shell"
    for option in $options; do
        grep -qE -- "(--|-l )${option#--}\b" "$folder/shoal.$shell" || fail "$shell does not complete $option"
    done
done
for option in $options; do
    grep -qF -- "${option//-/\\-}" "$folder/shoal.1" ||
        fail "the manual does not have $option"
done

# What bash offers for the last of the words given.
offered() {
    bash --norc -c '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shoal; echo "${COMPREPLY[*]}"' "$folder/shoal.bash" "$@"
}
check() {
    local wanted=$1
    shift
    [ "$(offered "$@")" = "$wanted" ] || fail "after \"$*\" bash offers \"$(offered "$@")\", not \"$wanted\""
}
check "ask" shoal a
check "chat completion" shoal c
check "--temp" shoal ask --te
check "--max-tokens" shoal ask --ma
check "local" shoal ask --mode l
check "top" shoal t
check "$folder/shoal.bash" shoal ask --ca-file "$folder/shoal.b"
check "$folder/shoal.fish" shoal bench --prompts "$folder/shoal.f"
grep -q -- "-l ca-file -r -F" "$folder/shoal.fish" || fail "fish offers no files behind --ca-file"
check "--concurrency" shoal bench --con
check "zsh" shoal completion z
"$shoal" completion tcsh >"$folder/none" 2>"$folder/why" && fail "tcsh has a completion"
grep -q "bash, zsh or fish" "$folder/why" || fail "the refusal of tcsh does not say which shells there are"
for shell in zsh fish; do
    if command -v $shell >"$folder/none"; then
        $shell -n "$folder/shoal.$shell" || fail "$shell does not read its completion"
    fi
done
if command -v groff >"$folder/none"; then
    groff -man -Tascii -P-c -P-b -P-u -ww "$folder/shoal.1" >"$folder/page" 2>"$folder/why"
    [ -s "$folder/why" ] && fail "groff: $(cat "$folder/why")"
    for title in SYNOPSIS DESCRIPTION CONNECTION ANSWER TOP BENCH OUTPUT "EXIT STATUS"; do
        grep -q "$title" "$folder/page" || fail "the page has no $title"
    done
fi
if command -v mandoc >"$folder/none"; then
    mandoc -T lint -W warning "$folder/shoal.1" || fail "mandoc has objections"
fi
exit $failed
