# SPDX-License-Identifier: Apache-2.0
# The rules of the house on one pass over C sources. Called by tidy.sh with the file names, relative to
# the root; prints "file:line: rule" for each breach. A line that holds "tidy-allow: reason" is left
# alone, and "tidy-allow: table" near the top lifts the length limit of a table that must be read.

BEGIN {
    rank["base"] = 0
    rank["obs"] = rank["config"] = rank["transfer"] = rank["tensor"] = 1
    rank["kernels"] = 2
    rank["weight"] = 3
    rank["machine"] = 4
    rank["kv"] = rank["tokenizer"] = rank["grammar"] = rank["redact"] = rank["sample"] = rank["exit"] = 4
    rank["model"] = rank["archive"] = rank["form"] = 5
    rank["spec"] = rank["engine"] = 6
    rank["train"] = rank["compress"] = 7

    instead["strcpy"] = instead["strcat"] = instead["strncpy"] = "memcpy with a checked length, or shoal_buf"
    instead["sprintf"] = instead["vsprintf"] = "snprintf or shoal_buf_appendf"
    instead["atoi"] = instead["atol"] = instead["atoll"] = instead["atof"] = \
        "strtoll or strtod with a check of the end"
    instead["strtok"] = instead["strtok_r"] = "strcspn and lengths"
    instead["rand"] = instead["srand"] = instead["random"] = "shoal_philox4x32_10 or shoal_rng_next"
    instead["alloca"] = "shoal_calloc or a fixed array"
    instead["gets"] = "fgets"
    instead["exit"] = "a returned status; only the file with main may end the program"
    instead["abort"] = "SHOAL_ASSERT"

    allocator["malloc"] = allocator["calloc"] = "shoal_calloc"
    allocator["realloc"] = "shoal_realloc"
    allocator["free"] = "shoal_free"
    allocator["aligned_alloc"] = allocator["posix_memalign"] = "shoal_calloc_aligned"
    allocator["strdup"] = "shoal_strdup"
    allocator["strndup"] = "shoal_strndup"

    third_party = "^(grpc|openssl|google|curl|hiredis|jansson\\.h|uv\\.h|yaml\\.h|pcre2\\.h|llhttp\\.h" \
        "|zstd\\.h|protobuf-c)"
}

function breach(line, rule)
{
    printf "%s:%d: %s\n", name, line, rule
    n_breaches++
}

# What ends with a file: its length, and calls that only a file with main may make.
function finish(i)
{
    if (name == "") {
        return
    }
    if (last > 1000 && !is_table) {
        breach(last, "file longer than 1000 lines: look for a seam")
    }
    for (i = 0; i < n_exits; i++) {
        if (!has_main) {
            breach(exits[i], "exit is banned, use " instead["exit"])
        }
    }
}

function start()
{
    finish()
    name = FILENAME
    sub(/^\.\//, "", name)
    n_parts = split(name, parts, "/")
    top = parts[1]
    room = n_parts > 2 ? parts[2] : ""
    is_header = name ~ /\.h$/
    in_comment = 0
    is_table = 0
    has_main = 0
    n_exits = 0
    opened = 0
    # The client library and the command line on it link libc and OpenSSL alone.
    allocates = top == "tests" || name == "common/base/mem.c" || \
        (top == "edge" && (room == "client" || room == "cli"))
}

# The line without comments and without what stands in quotes.
function code_of(line, out, c, two, i, n, quote)
{
    out = ""
    n = length(line)
    quote = ""
    for (i = 1; i <= n; i++) {
        c = substr(line, i, 1)
        two = substr(line, i, 2)
        if (in_comment) {
            if (two == "*/") {
                in_comment = 0
                i++
            }
        } else if (quote != "") {
            if (c == "\\") {
                i++
            } else if (c == quote) {
                quote = ""
                out = out c
            }
        } else if (two == "/*") {
            in_comment = 1
            i++
            out = out " "
        } else if (two == "//") {
            break
        } else {
            if (c == "\"" || c == "'") {
                quote = c
            }
            out = out c
        }
    }
    return out
}

# Why a file of this place must not include that path; "" when it may.
function direction(path, to, n_to)
{
    n_to = split(path, to, "/")
    if (to[1] != "common" && to[1] != "protocol" && to[1] != "edge" && to[1] != "cloud") {
        return ""
    }
    if (path ~ /_internal\.h$/ && top != "tests" && (to[1] != top || to[2] != room)) {
        return path " belongs to its folder alone"
    }
    if (top == "common") {
        if (to[1] != "common") {
            return "common knows no " to[1]
        }
        if (!(room in rank) || !(to[2] in rank)) {
            return "the folder has no place in the order of common (tests/tidy/source.awk)"
        }
        if (to[2] != room && rank[to[2]] >= rank[room]) {
            return "common/" room " stands before common/" to[2]
        }
    } else if (top == "protocol") {
        if (to[1] == "edge" || to[1] == "cloud") {
            return "protocol knows no " to[1]
        }
        if (room == "wire" && to[1] == "protocol" && to[2] == "rpc") {
            return "protocol/wire stands before protocol/rpc"
        }
        if (room != "http" && to[1] == "protocol" && to[2] == "http") {
            return "protocol/http serves the daemons alone"
        }
    } else if (top == "edge") {
        if (to[1] == "cloud") {
            return "edge and cloud never include each other"
        }
        if (room == "client" && (to[1] != "edge" || to[2] != "client")) {
            return "the client library stands alone"
        }
    } else if (top == "cloud" && to[1] == "edge") {
        return "edge and cloud never include each other"
    }
    return ""
}

function check_include(line, path, why)
{
    path = line
    sub(/^[ \t]*#[ \t]*include[ \t]*["<]/, "", path)
    sub(/[">].*$/, "", path)
    # An internal header is a piece of its folder's adapter: nobody else may include it.
    if (is_header && name !~ /_internal\.h$/ && path ~ third_party) {
        breach(FNR, path " in a header: third-party headers belong in adapter .c files")
    }
    if (line ~ /include[ \t]*"/) {
        why = direction(path)
        if (why != "") {
            breach(FNR, "include direction: " why)
        }
    }
}

# Every word that is called: an identifier before "(", and not a member.
function check_calls(code, rest, word, before)
{
    rest = code
    while (match(rest, /[A-Za-z_][A-Za-z0-9_]*[ \t]*\(/)) {
        word = substr(rest, RSTART, RLENGTH - 1)
        before = RSTART > 1 ? substr(rest, RSTART - 1, 1) : ""
        rest = substr(rest, RSTART + RLENGTH)
        sub(/[ \t]+$/, "", word)
        if (before == "." || before == ">") {
            continue
        }
        if (word == "exit") {
            exits[n_exits++] = FNR
        } else if (word == "abort") {
            if (top != "tests" && name != "common/base/assert.c") {
                breach(FNR, "abort is banned, use " instead[word])
            }
        } else if (word in instead) {
            breach(FNR, word " is banned, use " instead[word])
        } else if ((word in allocator) && !allocates) {
            breach(FNR, word " is banned outside common/base/mem.c, use " allocator[word])
        }
    }
}

FNR == 1 {
    start()
}

{
    last = FNR
    if (FNR <= 10 && index($0, "tidy-allow: table")) {
        is_table = 1
    }
    shown = $0
    gsub(/[\200-\277]/, "", shown) # continuation bytes: columns are characters
    code = code_of($0)
    if (code ~ /(^|[^A-Za-z0-9_])main[ \t]*\(/) {
        has_main = 1
    }
    if (index($0, "tidy-allow:")) {
        next
    }
    if (index($0, "\t")) {
        breach(FNR, "tab: indent with 4 spaces")
    }
    # As clang-format lays them out, a function's braces stand in the first column, and nothing else opens there.
    if ($0 == "{") {
        opened = FNR
    } else if ($0 == "}" && opened) {
        if (FNR - opened > 80) {
            breach(opened, "function of more than 80 lines: it fits no screen")
        }
        opened = 0
    }
    if (length(shown) > 100) {
        breach(FNR, "line longer than 100 columns")
    }
    if ($0 ~ /^[ \t]*#[ \t]*include/) {
        check_include($0)
    } else {
        check_calls(code)
    }
}

END {
    finish()
    exit n_breaches > 0
}
