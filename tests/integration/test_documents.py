#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What documents promise is there: every file, test and setting that they name, every page and picture that they link."""
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
        setting = re.match(r"([a-z]+)\.(?!crt$)([a-z_]+|\*)(:|$)", name)
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


def pages():
    """README.md, SECURITY.md, and every page under docs and deploy."""
    yield from (os.path.join(SOURCE, name) for name in ("README.md", "SECURITY.md"))
    for top in ("docs", "deploy"):
        for folder, _, names in os.walk(os.path.join(SOURCE, top)):
            yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".md"))


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def test_documents_name_what_there_is():
    tests, settings = tests_of_the_tree(), keys("shoal-edge") | keys("shoal-cloud")
    expect(len(tests) > 500 and len(settings) > 80, f"{len(tests)} tests and {len(settings)} settings were found")
    for name in ("SECURITY.md", "docs/METHODS.md", "docs/reference/openai.md", "docs/tutorial.md", "docs/howto/calibrate.md",
                 "docs/howto/compress.md", "docs/howto/offline.md",
                 "docs/howto/budgets.md", "docs/howto/redaction.md", "docs/howto/fleet.md", "docs/explanation/idea.md",
                 "docs/explanation/exactness.md", "docs/explanation/risk-bound.md", "docs/explanation/kv-economics.md",
                 "docs/explanation/compression.md", "deploy/k8s/README.md"):
        lost = list(missing(read(os.path.join(SOURCE, name)), tests, settings))
        expect(not lost, f"{name} names {', '.join(lost)}: not in the tree")
    false = "`test_not_there` `tests/unit/not_there.c` `kv.not_there`"
    expect(len(list(missing(false, tests, settings))) == 3, "false names are not seen")


def anchors(text):
    """What GitHub makes of headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}


def test_links_lead_somewhere():
    n = 0
    for path in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", read(path), flags=re.M | re.S)):
            if re.match(r"[a-z]+:", target):
                continue
            there, _, anchor = target.partition("#")
            file = os.path.join(os.path.dirname(path), there) if there else path
            expect(os.path.exists(file), f"{os.path.relpath(path, SOURCE)} links {target}: not there")
            expect(not anchor or anchor in anchors(read(file)), f"{os.path.relpath(path, SOURCE)} links {target}: no such heading")
            n += 1
    expect(n > 40, f"only {n} links were found")
    return f"{n} links"


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
