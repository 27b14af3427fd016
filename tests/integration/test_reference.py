#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/reference are what the programs say today, and OPERATIONS.md names no metric that is not told."""
import os
import re

from harness import SOURCE, expect, main
from reference import FOLDER, http_errors, metrics_told, pages

REMEDY = "run tests/integration/reference.py --write"


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def test_pages_are_current():
    wanted = pages()
    there = set(os.listdir(FOLDER)) - {"README.md", "openai.md"}  # both by hand
    expect(there == set(wanted), f"docs/reference has {sorted(there)}: {REMEDY}")
    for name, text in wanted.items():
        old = read(os.path.join(FOLDER, name))
        differs = next((b for a, b in zip(old.splitlines(), text.splitlines()) if a != b), "its length")
        expect(old == text, f"docs/reference/{name} is not what the programs say; first: {differs!r}: {REMEDY}")
    return f"{len(wanted)} pages"


def test_errors_are_found_in_the_sources():
    found = http_errors()
    for status, code in ((401, "invalid_api_key"), (400, "context_length_exceeded"), (413, "body_too_large")):
        expect((status, code) in found, f"{status} {code} is not found")
    expect(all(texts for texts in found.values()), "an error without words")
    return f"{len(found)} errors"


def test_operations_names_metrics_there_are():
    told = set(re.findall(r"^# TYPE (\w+) ", "\n".join(metrics_told().values()), re.M))
    named = set(re.findall(r"\bshoal_[a-z_]+\b", read(os.path.join(SOURCE, "docs/OPERATIONS.md"))))
    expect(len(named) > 20 and named <= told, f"OPERATIONS.md names {sorted(named - told)}: no daemon tells that")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
