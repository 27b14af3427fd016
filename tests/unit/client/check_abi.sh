#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The shared library's promises: it exports exactly the functions of shoal.h, each with the version that
# libshoal.map gives it, has the soname of its interface, needs libc and OpenSSL alone, and its header is C99 and C++11.
# Usage: check_abi.sh <libshoal.so> <shoal.h> <libshoal.map> <C compiler> <sanitized: 0 or 1>
set -eu
library=$1 header=$2 map=$3 compiler=$4 sanitized=$5
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

nm -D --defined-only "$library" | awk '$2 == "T" || $2 == "D" || $2 == "B" || $2 == "R" {
    sub("@.*", "", $3); print $3 }' | grep -v '^_' | sort >"$scratch/exported"
grep -o 'shoal_client_[a-z_]*(' "$header" | tr -d '(' | sort -u >"$scratch/declared"
# The callback type and the calls that comments show are declared elsewhere in the same header.
if ! diff "$scratch/declared" "$scratch/exported"; then
    echo "exported symbols (right) are not the header's functions (left)" >&2
    exit 1
fi
nm -D --defined-only "$library" | awk '$3 ~ /^shoal_client_/ { sub("@@", "@", $3); print $3 }' | sort >"$scratch/versions"
awk '/^SHOAL_/ { version = $1 } /shoal_client_/ { sub(";", "", $1); print $1 "@" version }' "$map" | sort >"$scratch/listed"
if ! diff "$scratch/listed" "$scratch/versions"; then
    echo "exported versions (right) are not those of libshoal.map (left)" >&2
    exit 1
fi
if ! readelf -d "$library" | grep -q 'SONAME.*\[libshoal\.so\.1\]'; then
    echo "the soname is not libshoal.so.1; it changes only when a program linked before no longer works" >&2
    exit 1
fi
if [ "$sanitized" = 0 ]; then
    needed=$(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
        grep -v -e '^libc\.so' -e '^ld-linux' -e '^libssl\.so' -e '^libcrypto\.so' || true)
    if [ -n "$needed" ]; then
        echo "libshoal needs more than libc and OpenSSL: $needed" >&2
        exit 1
    fi
fi
printf '#include "%s"\nint main(void) { return shoal_client_tier_name(0) == 0; }\n' "$header" \
    >"$scratch/use.c"
"$compiler" -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only "$scratch/use.c"
if printf 'int main() { return 0; }\n' | "$compiler" -x c++ -fsyntax-only - 2>/dev/null; then
    "$compiler" -x c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only "$scratch/use.c"
fi
