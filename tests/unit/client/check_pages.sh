#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The manual pages of section 3: every function of the library has one that shows its declaration and says what it does,
# since when and where to read on, and there is no page of anything else. Their readers take them; readers that are not
# installed are passed over.
# Usage: check_pages.sh <folder of pages> <shoal.h> <libshoal.map>
set -eu
pages=$1 header=$2 map=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
fail() {
    echo "$1" >&2
    failed=1
}

{
    awk '/shoal_client_/ { sub(";", "", $1); print $1 }' "$map"
    echo libshoal
} | sort >"$scratch/wanted"
(cd "$pages" && ls) | sed 's/\.3$//' | sort >"$scratch/there"
diff "$scratch/wanted" "$scratch/there" || fail "pages (right) are not the functions of libshoal.map and libshoal (left)"

# One line for every declaration, blanks made one.
tr -s ' \n' ' ' <"$header" | grep -o 'SHOAL_CLIENT_API [a-z][^;]*;' | sed 's/SHOAL_CLIENT_API //' >"$scratch/declared"
[ "$(wc -l <"$scratch/declared")" -eq "$(($(wc -l <"$scratch/wanted") - 1))" ] || fail "the header declares other functions than the map"
while IFS= read -r line; do
    name=$(echo "$line" | grep -o 'shoal_client_[a-z_]*(' | head -n 1 | tr -d '(')
    page=$pages/$name.3
    [ -s "$page" ] || continue
    sed 's/\\-/-/g' "$page" | tr -s ' \n' ' ' | grep -qF "$line" || fail "$name(3) does not show: $line"
    grep -qx "$name .- ..*" "$page" || grep -q "^$name ..- [^ ]..*" "$page" || fail "$name(3) has no line that says what it does"
    grep -A1 '^\.SH DESCRIPTION' "$page" | tail -n 1 | grep -q '[a-z]' || fail "$name(3) has no description"
    grep -q "^Since SHOAL_[0-9.]*[0-9]\.\$" "$page" || fail "$name(3) does not say since when it is there"
    grep -q "^\.BR $name (3)" "$pages/libshoal.3" || fail "libshoal(3) does not list $name"
done <"$scratch/declared"
# Where pages point to.
sed -n 's/^\.BR \(.*\) (3),*$/\1/p' "$pages"/*.3 | sort -u >"$scratch/pointed"
comm -23 "$scratch/pointed" "$scratch/wanted" >"$scratch/missing"
[ ! -s "$scratch/missing" ] || fail "no page of: $(cat "$scratch/missing")"
# Names of types and constants that a page speaks of are the header's.
grep -oh '\bSHOAL_CLIENT_[A-Z_]*[A-Z]\b\|\bshoal_client_[a-z_]*[a-z]\b' "$pages"/*.3 | sort -u | while IFS= read -r word; do
    grep -qw "$word" "$header" || echo "$word"
done >"$scratch/unknown"
[ ! -s "$scratch/unknown" ] || fail "not in the header: $(cat "$scratch/unknown")"

if command -v groff >"$scratch/none"; then
    groff -man -Tascii -ww "$pages"/*.3 >"$scratch/page" 2>"$scratch/why"
    [ ! -s "$scratch/why" ] || fail "groff: $(cat "$scratch/why")"
fi
if command -v mandoc >"$scratch/none"; then
    mandoc -T lint -W warning "$pages"/*.3 || fail "mandoc has objections"
fi
exit $failed
