#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What documents promise is there: every file, test and setting that SECURITY.md names."""
import os
import re

from harness import SOURCE, binary, expect, main, run

KINDS = (".c", ".py")


def tests_of_the_tree():
    found = set()
    for folder, _, names in os.walk(os.path.join(SOURCE, "tests")):
        for name in names:
            if name.endswith(KINDS):
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    found.update(re.findall(r"^(?:static void|def) (test_\w+)\(", f.read(), re.M))
    return found


def keys(program):
    """The keys of a daemon, dotted, from the YAML that it prints."""
    found, section = set(), ""
    for line in run(binary(program), "--dump-config").stdout.splitlines():
        key = re.match(r"( *)([a-z_0-9]+):(.*)", line)
        if key and not key[3].strip():
            section = key[2] + "."
        elif key:
            found.add((section if key[1] else "") + key[2])
    return found


def missing(text, tests, settings):
    """Names between backticks that look like something of the tree and are not."""
    sections = {key.split(".")[0] for key in settings}
    for name in sorted(set(re.findall(r"`([^`\n]+)`", text))):
        setting = re.match(r"([a-z]+)\.([a-z_]+|\*)(:|$)", name)
        if re.fullmatch(r"test_\w+", name):
            if name not in tests:
                yield f"test {name}"
        elif re.fullmatch(r"(tests|docs|deploy|common|cloud|edge|protocol)/[\w./-]+", name):
            if not os.path.exists(os.path.join(SOURCE, name)):
                yield f"file {name}"
        elif setting and setting[1] in sections:
            key = f"{setting[1]}.{setting[2]}"
            if setting[2] != "*" and key not in settings:
                yield f"setting {key}"


def test_security_names_what_there_is():
    with open(os.path.join(SOURCE, "SECURITY.md"), encoding="utf-8") as f:
        text = f.read()
    tests, settings = tests_of_the_tree(), keys("shoal-edge") | keys("shoal-cloud")
    expect(len(tests) > 500 and len(settings) > 80, f"{len(tests)} tests and {len(settings)} settings were found")
    lost = list(missing(text, tests, settings))
    expect(not lost, f"SECURITY.md names {', '.join(lost)}: not in the tree")
    false = "`test_not_there` `tests/unit/not_there.c` `kv.not_there`"
    expect(len(list(missing(false, tests, settings))) == 3, "false names are not seen")


if __name__ == "__main__":
    main([test_security_names_what_there_is])
