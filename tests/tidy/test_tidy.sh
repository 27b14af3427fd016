#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Proves that each rule of tidy.sh fires where it should and nowhere else, on a small tree of its own.
#   test_tidy.sh CC
set -u
here=$(cd "$(dirname "$0")" && pwd)
cc=$1
tree=$(mktemp -d) || exit 2
trap 'rm -rf "$tree"' EXIT
trap 'exit 2' HUP INT TERM
failed=0
spdx='/* SPDX-License-Identifier: Apache-2.0 */'

put() { # path, then lines
    mkdir -p "$tree/$(dirname "$1")"
    file=$tree/$1
    shift
    printf '%s\n' "$@" >"$file"
}

empty() {
    rm -rf "$tree"
    mkdir -p "$tree"
}

# expect WHAT TEXT: tidy reports exactly the line TEXT, or nothing when TEXT is empty.
expect() {
    rule=$1
    expected=$2
    shift 2
    said=$("$here/tidy.sh" "$rule" "$tree" "$@")
    status=$?
    if [ "$said" != "$expected" ] || { [ -z "$expected" ] && [ $status -ne 0 ]; } ||
        { [ -n "$expected" ] && [ $status -eq 0 ]; }; then
        printf 'test_tidy: expected <%s>\n           found    <%s> (status %d)\n' "$expected" "$said" $status
        failed=1
    fi
}

# one PATH LINE TEXT: a source of the licence and one line, judged alone.
one() {
    empty
    put "$1" "$spdx" "$2"
    put "$(dirname "$1")/CMakeLists.txt" '# SPDX-License-Identifier: Apache-2.0' "$(basename "$1")"
    expect source "${3:+$1:2: $3}"
}

one common/kv/a.c '#include "common/base/buf.h"' ''
one common/kv/a.c '#include "common/kv/kv.h"' ''
one common/kv/a.c '#include "common/model/model.h"' \
    'include direction: common/kv stands before common/model'
one common/kv/a.c '#include "common/sample/sample.h"' \
    'include direction: common/kv stands before common/sample'
one common/base/a.c '#include "edge/coop/gen.h"' 'include direction: common knows no edge'
one common/base/a.c '#include "protocol/wire/msg.h"' 'include direction: common knows no protocol'
one protocol/rpc/a.c '#include "cloud/server/x.h"' 'include direction: protocol knows no cloud'
one protocol/wire/a.c '#include "protocol/rpc/x.h"' \
    'include direction: protocol/wire stands before protocol/rpc'
one protocol/rpc/a.c '#include "protocol/http/x.h"' \
    'include direction: protocol/http serves the daemons alone'
one edge/coop/a.c '#include "cloud/server/x.h"' \
    'include direction: edge and cloud never include each other'
one cloud/server/a.c '#include "edge/coop/x.h"' \
    'include direction: edge and cloud never include each other'
one edge/client/a.c '#include "common/base/buf.h"' \
    'include direction: the client library stands alone'
one edge/http/a.c '#include <uv.h>' ''
one edge/http/a.h '#include <uv.h>' \
    'uv.h in a header: third-party headers belong in adapter .c files'
one edge/http/a_internal.h '#include <uv.h>' ''
one edge/http/a.c '#include "edge/http/a_internal.h"' ''
one edge/coop/a.c '#include "edge/http/a_internal.h"' \
    'include direction: edge/http/a_internal.h belongs to its folder alone'
one protocol/rpc/a.h '#include <grpc/grpc.h>' \
    'grpc/grpc.h in a header: third-party headers belong in adapter .c files'
one common/base/a.c 'x = atoi (s);' \
    'atoi is banned, use strtoll or strtod with a check of the end'
one common/base/a.c 'strcpy(a, b);' \
    'strcpy is banned, use memcpy with a checked length, or shoal_buf'
one common/base/a.c 'x.gets(a); y->rand(); my_rand(); strand();' ''
one common/base/a.c '/* atoi( */ "atoi(" // atoi(' ''
one common/base/a.c 'x = "\"" + atof(s);' \
    'atof is banned, use strtoll or strtod with a check of the end'
one common/base/a.c 'exit(1);' \
    'exit is banned, use a returned status; only the file with main may end the program'
one edge/cli/a.c 'int main(void) { exit(1); }' ''
one common/base/a.c 'abort();' 'abort is banned, use SHOAL_ASSERT'
one common/base/assert.c 'abort();' ''
one common/base/a.c 'free(p);' 'free is banned outside common/base/mem.c, use shoal_free'
one common/base/a.c 'free(p); /* tidy-allow: made by the library */' ''
one common/base/mem.c 'free(p);' ''
one edge/client/a.c 'free(p);' ''
one edge/cli/a.c 'free(p);' ''
one tests/unit/a.c 'free(p);' ''
one edge/coop/a.c 'p = malloc (3);' 'malloc is banned outside common/base/mem.c, use shoal_calloc'
one common/base/a.c "$(printf 'a\tb')" 'tab: indent with 4 spaces'
one common/base/a.c "$(printf '%0100d' 1)" ''
one common/base/a.c "$(printf '%0101d' 1)" 'line longer than 100 columns'
one common/base/a.c "$(printf '%099d\303\274' 1)" ''
one common/base/a.c "/* FIX""ME */" 'fix it, or write what hurts and when'

# A comment over lines hides what it holds.
empty
put tests/a.c "$spdx" '/* atoi(x)' 'atoi(x) */ atoi(x);'
expect source 'tests/a.c:3: atoi is banned, use strtoll or strtod with a check of the end'

empty
put tests/a.c 'int x;'
expect source 'tests/a.c:1: no SPDX-License-Identifier line'
empty
put tests/a.sh '#!/bin/sh' '# SPDX-License-Identifier: Apache-2.0'
expect source ''

# A function of 80 lines, its braces aside from the first, and of one more.
for lines in 79 80; do
    empty
    put common/base/a.c "$spdx" 'int f(void)' '{' "$(awk -v n="$lines" 'BEGIN { for (i = 0; i < n; i++) print "    x();" }')" '}'
    put common/base/CMakeLists.txt '# SPDX-License-Identifier: Apache-2.0' a.c
    if [ "$lines" = 79 ]; then
        expect source ''
    else
        expect source 'common/base/a.c:3: function of more than 80 lines: it fits no screen'
    fi
done

for lines in 1000 1001; do
    empty
    put tests/a.c "$spdx"
    awk -v n="$lines" 'BEGIN { for (i = 1; i < n; i++) print "int x;" }' >>"$tree/tests/a.c"
    if [ "$lines" = 1000 ]; then
        expect source ''
    else
        expect source 'tests/a.c:1001: file longer than 1000 lines: look for a seam'
    fi
done
put tests/b.c "$spdx" '/* tidy-allow: table */'
sed 1d "$tree/tests/a.c" >>"$tree/tests/b.c"
rm "$tree/tests/a.c"
expect source ''

for bytes in 262144 262145; do
    empty
    put tests/blob x
    mkdir -p "$tree/deploy/models"
    head -c "$bytes" /dev/zero >"$tree/tests/blob"
    head -c "$bytes" /dev/zero >"$tree/deploy/models/blob"
    if [ "$bytes" = 262144 ]; then
        expect source ''
    else
        expect source 'tests/blob:1: 256 KiB, larger than 256 KiB: blobs stay out of git'
    fi
done

empty
put common/base/README.md "$(awk 'BEGIN { for (i = 1; i < 61; i++) print i; printf "61" }')"
expect source 'common/base/README.md:61: README longer than 60 lines'

empty
put common/base/a.c "$spdx"
put common/base/b/c.c "$spdx"
put common/base/CMakeLists.txt '# SPDX-License-Identifier: Apache-2.0' 'f(b/c.c aa.c)'
expect source 'common/base/a.c:1: dead file: no CMakeLists.txt names it'

# A public function that nothing calls, that its own file calls, another one, the header itself, a test; what stands
# in a comment or in quotes is no call, a type is no function, and applications call what is shoal.h's.
dead() { # WHAT TEXT, then lines of a second source
    empty
    put common/base/a.h "$spdx" "$1"
    text=$2
    shift 2
    put common/base/a.c "$spdx" 'int shoal_a(int x)' '{' '    return x;' '}'
    put common/base/b.c "$spdx" "$@"
    put common/base/CMakeLists.txt '# SPDX-License-Identifier: Apache-2.0' 'a.c b.c'
    expect source "$text"
}
nobody='common/base/a.h:2: dead function: nothing calls shoal_a'
dead 'int shoal_a(int x);' "$nobody" ''
dead 'int shoal_a(int x);' '' 'x = shoal_a(1);'
dead 'int shoal_a(int x);' '' 'static int (*const f)(int x) = shoal_a;'
dead 'int shoal_a(int x);' "$nobody" '/* shoal_a(1)' 'shoal_a(2) */ "shoal_a(3)" // shoal_a(4)'
dead 'int shoal_a(int x);' '' '"/*" shoal_a(1)'
dead 'typedef int shoal_a(int x);' '' ''
dead 'static inline int shoal_b(void) { return 1; }' 'common/base/a.h:2: dead function: nothing calls shoal_b' ''
dead 'static inline int shoal_b(void) { return 1; }' '' 'x = shoal_b();'
empty
put edge/client/shoal.h "$spdx" 'int shoal_a(int x);'
expect source ''
empty
put common/base/a.h "$spdx" 'int shoal_a(int x);'
put tests/a.c "$spdx" 'x = shoal_a(1);'
expect source 'common/base/a.h:2: dead function: tests alone call shoal_a; say in tests/tidy/seams.txt what for'
put tests/tidy/seams.txt 'Seams' 'shoal_a: what is seen by it'
expect source ''
put tests/tidy/seams.txt 'shoal_a: what is seen by it' 'shoal_b: gone'
expect source 'tests/tidy/seams.txt:2: no function that tests alone call: shoal_b'
put common/base/a.inc "$spdx" 'int shoal_a(int x) { return x; }' 'shoal_a(1);'
put tests/tidy/seams.txt 'shoal_a: what is seen by it'
expect source 'tests/tidy/seams.txt:1: no function that tests alone call: shoal_a'

empty
put common/base/good.h "$spdx" '#include <stddef.h>' 'size_t f(void);'
expect headers '' "$cc"
put common/base/poor.h "$spdx" 'size_t f(void);'
"$here/tidy.sh" headers "$tree" "$cc" | grep -q '^common/base/poor.h:1: does not compile alone$' || {
    echo 'test_tidy: a header that needs another was not found'
    failed=1
}

empty
put a.c 'int shoal_x; static int y; int *shoal_p(void); int *shoal_p(void) { return &y; }'
(cd "$tree" && "$cc" -c a.c && ar rc libshoal_a.a a.o) || failed=1
expect symbols ''
put b.c 'int loose;'
(cd "$tree" && "$cc" -c b.c && ar rc libshoal_a.a b.o && ar rc libother.a b.o) || failed=1
expect symbols 'libshoal_a.a:1: global symbol loose of b.o does not begin with shoal_'

exit $failed
