#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/tutorial.md and docs/howto, run as a reader would: from the root of the tree, in order.

What is done with a block of commands stands in a comment before it:
    run; shows: TEXT          it must succeed, and print TEXT where some is named
    run if PROGRAM; ...       the same, where PROGRAM is installed
    start NAME, wait for: T   it goes on in the background, as in a terminal of its own, once it has printed T
    stop NAME, kill NAME      Ctrl-C in that terminal, and exit status 0 or 130; kill -9
    not run: WHY              it is left alone
A block without such a comment is a mistake. Files that the text puts below .run/ lie in a folder of the test. Ports are
those of the text, in a network namespace of its own where there may be one; else the test is left out."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import link
from harness import BIN, SKIPPED, SOURCE, Site, complete, expect, main, request
from test_upstream import stack

BLOCK = re.compile(r"<!-- (.*?) -->|^```(\w*)\n(.*?)^```$", re.M | re.S)


def steps(path):
    """[(what the comment says, the commands or None)] of a page."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    found, said = [], None
    for m in BLOCK.finditer(text):
        line = text.count("\n", 0, m.start()) + 1
        if m[1]:
            expect(said is None, f"{path}:{line}: two comments and no commands between them")
            if re.match(r"(stop|kill) ", m[1]):
                found.append((m[1], None, line))
            else:
                said = m[1]
        elif m[2] == "sh":
            expect(said, f"{path}:{line}: commands without a comment that says what the test does with them")
            found.append((said, m[3], line))
            said = None
    expect(said is None, f"{path}: a comment at the end without commands")
    return found


class Reader:
    """Somebody who follows a page: one terminal, and one more for each command that goes on."""

    def __init__(self, path):
        self.path = path
        self.folder = tempfile.mkdtemp(prefix="shoal-reader-")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
        self.env.update(SHOAL_STATE_DIR=os.path.join(self.folder, "state"), LC_ALL="C.UTF-8")
        self.running = {}
        self.n_run = 0

    def written(self, commands):
        return commands.replace(".run/", self.folder + "/")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, _, output in self.running.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            output.close()
        shutil.rmtree(self.folder)

    def follow(self):
        for said, commands, line in steps(self.path):
            where = f"{os.path.relpath(self.path, SOURCE)}:{line}"
            if commands is None:
                self.end(*said.split(" ", 1), where)
                continue
            start = re.fullmatch(r"start (\S+), wait for: (.*)", said)
            run = re.fullmatch(r"run(?: if (\w+))?(?:; shows: (.*))?", said)
            if start:
                self.start(start[1], start[2], commands, where)
            elif run and (not run[1] or shutil.which(run[1])):
                self.run(commands, run[2] or "", where)
            else:
                expect(run or said.startswith("not run: "), f"{where}: what is \"{said}\"?")
        expect(not self.running, f"{self.path}: {sorted(self.running)} go on at the end")
        expect(self.n_run >= 3, f"{self.path}: only {self.n_run} blocks were run")
        return self.n_run

    def run(self, commands, shows, where):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", self.written(commands)], cwd=SOURCE, env=self.env, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        expect(done.returncode == 0, f"{where}: exit status {done.returncode}: {done.stdout[-1500:]}{self.told()}")
        expect(shows in done.stdout, f"{where}: does not show {shows!r}: {done.stdout[-1500:]}")
        self.n_run += 1

    def start(self, name, text, commands, where):
        output = open(os.path.join(self.folder, f"{name}.output"), "w+", encoding="utf-8")
        process = subprocess.Popen(["bash", "-c", self.written(commands)], cwd=SOURCE, env=self.env, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        expect(name not in self.running, f"{where}: {name} goes on already")
        self.running[name] = (process, where, output)
        end = time.monotonic() + 300
        while text not in self.output(name):
            expect(process.poll() is None and time.monotonic() < end, f"{where}: no {text!r}: {self.output(name)[-1500:]}")
            time.sleep(0.05)
        self.n_run += 1

    def output(self, name):
        with open(os.path.join(self.folder, f"{name}.output"), encoding="utf-8") as f:
            return f.read()

    def told(self):
        return "".join(f"\n--- {name}\n{self.output(name)[-1500:]}" for name in self.running)

    def end(self, how, name, where):
        """Ctrl-C reaches everything in the terminal, the shell and its daemons; kill -9 as well."""
        expect(name in self.running, f"{where}: {name} does not go on")
        process, _, output = self.running.pop(name)
        os.killpg(process.pid, signal.SIGINT if how == "stop" else signal.SIGKILL)
        status = process.wait(60)
        output.close()
        expect(how == "kill" or status in (0, 130, -signal.SIGINT), f"{where}: {name} ended with {status}")


def follow(name):
    with Reader(os.path.join(SOURCE, "docs", name)) as reader:
        return f"{reader.follow()} blocks"


def test_tutorial():
    return follow("tutorial.md")


def test_howto_calibrate():
    return follow("howto/calibrate.md")


def test_howto_compress():
    return follow("howto/compress.md")


def test_howto_offline():
    return follow("howto/offline.md")


def test_howto_budgets():
    return follow("howto/budgets.md")


def test_howto_redaction():
    return follow("howto/redaction.md")


def test_placeholders_of_the_page_are_those_that_leave():
    """What stands in the cloud's place, an engine behind a proxy, is asked for a text with the page's placeholders."""
    secrets = ["ada@example.com", "+49 30 123456-78", "4111 1111 1111 1111", "sk-abcdefghijkl0123456789", "Ada Lovelace",
               "CU-123456"]
    with open(os.path.join(SOURCE, "docs/howto/redaction.md"), encoding="utf-8") as f:
        told = set(re.findall(r"`(\[[^\]`]+[ _]1\])`", f.read()))
    with Site() as site:
        engine, proxy, cloud, _ = stack(site)
        _, model = site.models()
        edge = site.edge(model, cloud.address, redact__enabled="true", redact__names="Ada Lovelace",
                         redact__patterns="CUSTOMER=CU-[0-9]{6}").start()
        answer = complete(edge.address, f"Send {', '.join(secrets)}.", "cloud", n=2)
        expect(answer.error is None, f"{answer.error}")
        body = json.dumps({"prompt": proxy.bodies[-1]["prompt"], "max_tokens": 1, "echo": True})
        seen = json.loads(request(engine.address, "POST", "/v1/completions", body)[2])["choices"][0]["text"]
        proxy.close()
    expect(not any(secret in seen for secret in secrets), f"the engine was asked for {seen!r}")
    expect(set(re.findall(r"\[\w+\]", seen)) == told, f"the page tells {told}, the engine was asked for {seen!r}")


def test_howto_adapters():
    return follow("howto/adapters.md")


def test_howto_fleet():
    return follow("howto/fleet.md")


def test_every_page_is_followed():
    """But for the page of other engines, which are not here: test_upstream.py stands in for them."""
    for page in sorted(set(os.listdir(os.path.join(SOURCE, "docs/howto"))) - {"upstream.md"}):
        expect(f"test_howto_{page.removesuffix('.md')}" in globals(), f"docs/howto/{page} is followed by no test")


def alone():
    """In a network namespace whose ports are free, or not at all."""
    if os.environ.get("SHOAL_READER") == "alone":
        link.interface("lo")
        return True
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode != 0:
        return False
    os.execvp("unshare", ["unshare", "--net", "env", "SHOAL_READER=alone", sys.executable, *sys.argv])


if __name__ == "__main__":
    if os.path.realpath(BIN) != os.path.realpath(os.path.join(SOURCE, "build/release/bin")):
        print("skipped: the pages are about build/release")
        sys.exit(SKIPPED)
    if not alone():
        print("skipped: needs root, for a network namespace with free ports")
        sys.exit(SKIPPED)
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
