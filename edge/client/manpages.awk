# SPDX-License-Identifier: Apache-2.0
# The manual pages of section 3, made from libshoal.map and shoal.h, so that they cannot say anything else: one for
# every function, with the types it takes, and libshoal(3) with what holds for all.
#     awk -v folder=DIR -v version=1.3.0 -v date=2026-11-29 -f manpages.awk libshoal.map shoal.h
# A blank line ends a block of the header. A block is a title, a type or limits, or one function; its comment's first
# clause is the line of the page's NAME.
BEGIN { RS = ""; n_functions = n_types = n_sections = 0; here = "" }

function trim(s) {
    gsub(/^[ \t\n]+|[ \t\n]+$/, "", s)
    return s
}

# Text of a page; what stands in code stays as it is, line by line.
function plain(s) {
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    gsub(/`/, "", s)
    gsub(/\n\./, "\n\\\\\\&.", s)
    gsub(/\n'/, "\n\\\\\\&'", s)
    return s
}

# A comment's text: paragraphs have an empty line between them.
function text_of(comment) {
    sub(/^\/\*/, "", comment)
    sub(/\*\/[ \n]*$/, "", comment)
    gsub(/\n \*/, "\n", comment)
    gsub(/\n +/, "\n", comment)
    return trim(comment)
}

function put_text(out, text,    parts, n, i) {
    n = split(text, parts, /\n\n+/)
    for (i = 1; i <= n; i++) {
        print (i > 1 ? ".PP\n" : "") plain(parts[i]) > out
    }
}

function put_code(out, code) {
    print ".nf\n" plain(code) "\n.fi" > out
}

# True where the word stands in the text by itself.
function has_word(text, word) {
    return match(" " text " ", "[^a-z_]" word "[^a-z_]") > 0
}

function remember_types(comment, code,    rest, name) {
    rest = code
    if (code ~ /^typedef (struct|enum) [a-z_]+ \{/) {
        name = code
        sub(/^typedef (struct|enum) /, "", name)
        sub(/ .*/, "", name)
        type[++n_types] = name
        definition[name] = comment code
        return
    }
    while (match(rest, /\(\*shoal_client_[a-z_]+\)/)) { # types of callbacks, several in a block
        name = substr(rest, RSTART + 2, RLENGTH - 3)
        type[++n_types] = name
        definition[name] = comment code
        rest = substr(rest, RSTART + RLENGTH)
    }
}

FNR == 1 && NR > 1 {
    opening = $0
    sub(/\*\/.*/, "*/", opening)
    opening = text_of(opening)
    sub(/^SPDX[^\n]*\n+/, "", opening)
    next
}

FILENAME ~ /\.map$/ {
    n = split($0, line, "\n")
    for (i = 1; i <= n; i++) {
        if (line[i] ~ /^SHOAL_/) {
            node = line[i]
            sub(/ .*/, "", node)
        } else if (line[i] ~ /shoal_client_/) {
            name = trim(line[i])
            sub(/;/, "", name)
            since[name] = node
        }
    }
    next
}

/^\/\* --- / {
    here = $0
    sub(/^\/\* --- /, "", here)
    sub(/ *-+ *(\n )?\*\/.*/, "", here)
    section[++n_sections] = here
    next
}

here != "" {
    comment = ""
    code = $0
    if (code ~ /^\/\*/) {
        end = index(code, "*/\n")
        comment = substr(code, 1, end + 2)
        code = substr(code, end + 3)
    }
    if (code ~ /^SHOAL_CLIENT_API/) {
        match(code, /shoal_client_[a-z_]+\(/)
        name = substr(code, RSTART, RLENGTH - 1)
        sub(/^SHOAL_CLIENT_API /, "", code)
        gsub(/\n                 /, "\n", code) # as wide as what was taken away
        function_name[++n_functions] = name
        of_section[name] = here
        prototype[name] = code
        told[name] = text_of(comment)
        clause = told[name]
        gsub(/\n/, " ", clause)
        sub(/[.;:]( .*)?$/, "", clause)
        sub(/ \(.*/, "", clause)
        brief[name] = clause ~ /^[A-Z][a-z]/ || clause ~ /^A / ? tolower(substr(clause, 1, 1)) substr(clause, 2) : clause
    } else {
        if (here == "limits") {
            limits = limits (limits ? "\n\n" : "") code
        } else {
            remember_types(comment, code)
        }
    }
}

function put_heading(out, name, what) {
    printf ".TH %s 3 %s \"libshoal %s\" \"Library Functions\"\n.SH NAME\n%s \\- %s\n", name, date, version, plain(name),
        plain(what) > out
}

# The types in a text, and those in theirs, in the header's order; errors stand in libshoal(3).
function put_types(out, text,    i, any, found, wanted) {
    do {
        found = 0
        for (i = 1; i <= n_types; i++) {
            if (!(type[i] in wanted) && type[i] !~ /^shoal_client_(error|code)$/ && has_word(text, type[i])) {
                wanted[type[i]] = 1
                text = text "\n" definition[type[i]]
                found = 1
            }
        }
    } while (found)
    any = ""
    for (i = 1; i <= n_types; i++) {
        if ((type[i] in wanted) && index(any, definition[type[i]]) == 0) {
            any = any (any ? "\n\n" : "") definition[type[i]]
        }
    }
    if (any) {
        print ".SH TYPES" > out
        put_code(out, any)
    }
}

function put_function(name,    out, i, also) {
    out = folder "/" name ".3"
    put_heading(out, name, brief[name])
    print ".SH SYNOPSIS" > out
    put_code(out, "#include <shoal.h>\n\n" trim(prototype[name]))
    print ".SH DESCRIPTION" > out
    put_text(out, told[name])
    put_types(out, prototype[name])
    if (prototype[name] ~ /^int /) {
        print ".SH RETURN VALUE\n" plain("A shoal_client_code: SHOAL_CLIENT_OK, which is 0, or a negative one of libshoal(3); " \
            "*ret_error, unless it is NULL,\nthen says what happened in words.") > out
    }
    if (prototype[name] ~ /shoal_client \*/ && told[name] !~ /Any thread/) {
        print ".SH THREADS\n" plain("A handle makes one call at a time; different handles are independent. See libshoal(3).") > out
    }
    print ".SH VERSION\nSince " plain(since[name]) ".\n.SH SEE ALSO" > out
    also = ".BR libshoal (3)"
    for (i = 1; i <= n_functions; i++) {
        if (function_name[i] != name && of_section[function_name[i]] == of_section[name]) {
            also = also ",\n.BR " plain(function_name[i]) " (3)"
        }
    }
    print also > out
    close(out)
}

function put_overview(    out, i, j) {
    out = folder "/libshoal.3"
    put_heading(out, "libshoal", "client library of the Shoal edge")
    print ".SH SYNOPSIS" > out
    put_code(out, "#include <shoal.h>\n\ncc app.c $(pkg-config --cflags --libs shoal)")
    print ".SH DESCRIPTION" > out
    put_text(out, opening)
    print ".SH FUNCTIONS" > out
    for (i = 1; i <= n_sections; i++) {
        for (j = 1; j <= n_functions; j++) {
            if (of_section[function_name[j]] == section[i]) {
                print ".TP\n.BR " plain(function_name[j]) " (3)\n" plain(brief[function_name[j]]) > out
            }
        }
    }
    print ".SH ERRORS" > out
    put_code(out, definition["shoal_client_code"] "\n\n" definition["shoal_client_error"])
    print ".SH LIMITS" > out
    put_code(out, limits)
    print ".SH ENVIRONMENT\n.TP\nSHOAL_URL\n" plain("the address, where the options name none") > out
    print ".TP\nSHOAL_CA_FILE\n" plain("the PEM file of the authorities of https edges, where the options name none") > out
    print ".SH SEE ALSO\n.BR shoal (1)" > out
    close(out)
}

END {
    for (i = 1; i <= n_functions; i++) {
        put_function(function_name[i])
    }
    put_overview()
}
