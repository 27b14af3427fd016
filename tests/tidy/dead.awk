# SPDX-License-Identifier: Apache-2.0
# Functions that a header of ours declares and nothing but their own definition names. Called by tidy.sh as
#   awk -v product=LIST -v tests=LIST -v seams=FILE -f dead.awk
# with lists of sources, one a line, and the functions that are there for tests: "name: what a test sees by it".
# What an application calls is edge/client/shoal.h's and not judged. Names are looked for outside comments and strings.

# The line without comments and without what stands in quotes; in_comment lasts from line to line.
function code_of(line, out, end)
{
    out = ""
    gsub(/'\\?"'/, "0", line)
    while (line != "") {
        if (in_comment) {
            end = index(line, "*/")
            if (!end) {
                return out
            }
            in_comment = 0
            line = substr(line, end + 2)
        }
        if (!match(line, /"([^"\\]|\\.)*"|\/\*|\/\//)) {
            return out line
        }
        out = out substr(line, 1, RSTART - 1) " "
        if (substr(line, RSTART, 2) == "//") {
            return out
        }
        in_comment = substr(line, RSTART, 2) == "/*"
        line = substr(line, RSTART + RLENGTH)
    }
    return out
}

# Counts every name of a source; of a header of the product also where it first declares a function.
function read_source(file, is_product, line, name, n, is_header, declares, once)
{
    in_comment = 0
    is_header = is_product && file ~ /\.h$/ && file != "edge/client/shoal.h"
    for (n = 1; (getline line < file) > 0; n++) {
        if (!in_comment && line !~ /shoal_|\/\*/) {
            continue
        }
        line = code_of(line)
        declares = is_header && line !~ /^(#|typedef )/
        once = line ~ /^static inline /
        while (match(line, /shoal_[a-z0-9_]+/)) {
            name = substr(line, RSTART, RLENGTH)
            if (declares && !(name in place) && substr(line, RSTART + RLENGTH, 1) == "(") {
                place[name] = file ":" n
                enough[name] = once ? 2 : 3 # declared, defined, called
            }
            line = substr(line, RSTART + RLENGTH)
            if (is_product) {
                named[name]++
            } else {
                tested[name] = 1
            }
        }
    }
    close(file)
}

BEGIN {
    while ((getline file < product) > 0) {
        read_source(file, 1)
    }
    while ((getline file < tests) > 0) {
        read_source(file, 0)
    }
    for (n = 1; (getline line < seams) > 0; n++) {
        if (line ~ /^shoal_[a-z0-9_]+: ./) {
            seam[substr(line, 1, index(line, ":") - 1)] = n
        }
    }
    for (name in place) {
        if (named[name] >= enough[name]) {
            continue
        }
        if (!(name in tested)) {
            print place[name] ": dead function: nothing calls " name
        } else if (!(name in seam)) {
            print place[name] ": dead function: tests alone call " name "; say in tests/tidy/seams.txt what for"
        }
        alive[name] = name in tested
    }
    for (name in seam) {
        if (!alive[name]) {
            print "tests/tidy/seams.txt:" seam[name] ": no function that tests alone call: " name
        }
    }
}
