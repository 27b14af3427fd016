#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The README's commands on a Debian 12 that has nothing but its base and git: timed, with their packages and the build in it.

Works on a clone of what is committed. SHOAL_FRESH_COMMANDS names commands that come after deploy/quickstart, one a line
(tests/run takes an hour and more); what they print goes straight to stdout. SHOAL_FRESH_ROOT names a folder for the
Debian, which is then kept; one that is there already is taken as it is, tree and builds and all, without quickstart. As
test_package.py, needs root, debootstrap and a mirror.
"""
import os
import shutil
import subprocess
import tempfile
import time

from debian import SECONDS, Root, skip_without
from harness import SOURCE, expect, free_port, main, run

CLONE = "root/shoal"


class Clone:
    """A Debian with the tree in it, as somebody has it who has just cloned it."""

    def __init__(self, path):
        self.is_new = not os.path.exists(os.path.join(path, CLONE))
        self.root = Root(path, make=self.is_new)
        self.told = []
        if self.is_new:
            self.root.run("apt-get", "update", "-qq")
            self.root.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "git")
            run("git", "clone", "--quiet", "--no-hardlinks", SOURCE, self.root.file(CLONE), timeout=SECONDS)

    def run(self, command, **options):
        """Runs a command from the root of the tree; its seconds and what it printed, if that was asked for."""
        started = time.monotonic()
        done = subprocess.run([*self.root.prefix(), "sh", "-c", f"cd /{CLONE} && {command}"], stdin=subprocess.DEVNULL,
                              stderr=subprocess.STDOUT, text=True, check=False, **options)
        seconds = time.monotonic() - started
        said = (done.stdout or "")[-2000:]
        expect(done.returncode == 0, f"{command} ended with {done.returncode} after {seconds:.0f} s: {said}")
        return seconds, done.stdout

    def tell(self, what):
        self.told.append(what)
        print(f"fresh: {what}; load {os.getloadavg()[1]:.1f}", flush=True)

    def quickstart(self, what):
        seconds, said = self.run(f"deploy/quickstart --port {free_port()}", stdout=subprocess.PIPE, timeout=SECONDS)
        answers = [part.strip().splitlines()[1:2] for part in said.split("\n  > ")[1:]]
        expect(len(answers) == 2 and all(answers), f"two questions have no two answers: {said!r}")
        left = self.root.processes()
        expect(not left, f"quickstart has left {left}")
        built = next(line for line in said.splitlines() if line.strip().startswith("build"))
        self.tell(f"quickstart, {what} run: {seconds:.1f} s ({' '.join(built.split())})")


def test_readme_commands_work_on_a_fresh_debian():
    skip_without("debootstrap", "git")
    kept = os.environ.get("SHOAL_FRESH_ROOT")
    scratch = None if kept else tempfile.mkdtemp(prefix="shoal-fresh-")
    clone = None
    try:
        clone = Clone(kept or os.path.join(scratch, "root"))
        if clone.is_new:
            clone.quickstart("first")
            clone.quickstart("second")
        for command in filter(None, os.environ.get("SHOAL_FRESH_COMMANDS", "").splitlines()):
            seconds, _ = clone.run(command, timeout=6 * SECONDS)
            clone.tell(f"{command}: {seconds:.0f} s")
        return "; ".join(clone.told)
    finally:
        if clone:
            clone.root.end()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main([test_readme_commands_work_on_a_fresh_debian])
