#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The official openai client, the ai SDK and LangChain JS, unchanged, against a running edge with a cloud.

They are installed by npm from clients/package-lock.json into a temporary folder.
"""
import os
import shutil
import subprocess

from harness import SOURCE, Site, expect, main, run

CLIENTS = os.path.join(SOURCE, "tests/integration/clients")
FILES = ("package.json", "package-lock.json", "check.mjs")


def install(folder):
    """Why the clients cannot be installed, or None."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            return f"{program} is not installed"
    for name in FILES:
        shutil.copy(os.path.join(CLIENTS, name), folder)
    try:
        done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder,
                              capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        return "npm had not installed the clients after 240 s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None if done.returncode == 0 else f"npm cannot install the clients: {lines[0] if lines else done.returncode}"


def test_clients_work_unchanged():
    with Site() as site:
        folder = site.file("clients")
        os.mkdir(folder)
        lacking = install(folder)
        if lacking:
            return f"skipped: {lacking}"
        full, edge = site.models()
        cloud = site.cloud(full).start()
        url = site.edge(edge, cloud.address, mode__default="exact", api__key="sesame", model__name="pair").start().address
        done = run("node", os.path.join(folder, "check.mjs"), f"{url}/v1", "pair", "sesame", check=False, timeout=120)
        print(done.stdout, end="")
        expect(done.returncode == 0, f"clients failed: {done.stderr[-2000:]}")
        return f"{done.stdout.count('ok   ')} checks"


if __name__ == "__main__":
    main([test_clients_work_unchanged])
