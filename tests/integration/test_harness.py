#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a test file says with its exit status: a test that could not run never counts as one that passed."""
import os
import subprocess
import sys
import tempfile

from harness import SKIPPED, expect, main

HERE = os.path.dirname(os.path.abspath(__file__))
FILE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from harness import main


def test_passes():
    return "3 things"


def test_fails():
    raise AssertionError("as it should")


def test_is_skipped():
    return "skipped: no such thing here"


main([test_passes, test_fails, test_is_skipped])
"""


def outcome(*names):
    """Status and lines of a file of three tests of which these are asked for."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as f:
        f.write(FILE)
        f.flush()
        done = subprocess.run([sys.executable, f.name, HERE, *names], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_status_says_what_ran():
    for names, status, last in (
            (["test_passes"], 0, "1 passed, 0 failed"),
            (["test_is_skipped"], SKIPPED, "0 passed, 0 failed, 1 skipped"),
            (["test_passes", "test_is_skipped"], 0, "1 passed, 0 failed, 1 skipped"),
            (["test_fails", "test_is_skipped"], 1, "0 passed, 1 failed, 1 skipped"),
            (["-test_fails"], 0, "1 passed, 0 failed, 1 skipped"),
            (["-test_fails", "-test_passes"], SKIPPED, "0 passed, 0 failed, 1 skipped"),
            ([], 1, "1 passed, 1 failed, 1 skipped")):
        code, lines = outcome(*names)
        expect(code == status and last in lines, f"{names}: {code} {lines}")


def test_lines_say_which():
    _, lines = outcome()
    for begin, end in (("ok   test_passes (", "s) 3 things"), ("FAIL test_fails: as it", "should"),
                       ("skip test_is_skipped (", "skipped: no such thing here")):
        expect(any(line.startswith(begin) and line.endswith(end) for line in lines), f"{begin}: {lines}")


def test_a_name_that_is_none_is_no_success():
    for name in ("test_passse", "-test_passse"):
        code, lines = outcome("test_passes", name)
        expect(code == 2 and lines == ["no such test: test_passse"], f"{code} {lines}")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
