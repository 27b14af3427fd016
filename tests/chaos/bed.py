# SPDX-License-Identifier: Apache-2.0
"""The ground that rows of the fault table stand on: a node, an edge, what they answered before anything went wrong,
and what they used. check() says after a fault whether both are alive, answer the same, and gave everything back."""
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench", "load"))
from loadlib import Site, cpu_seconds, resident_kib  # noqa: E402,F401
from harness import complete, expect, wait_until  # noqa: E402

GROWTH_KIB = 24 * 1024  # what buffers of a flood may leave with the allocator
PROMPT = "What does H40 mean on the Tapir 10?"


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def ask(edge, mode="exact", n=16, **fields):
    return complete(edge.address, PROMPT, mode, n=n, chat=True, temperature=0, **fields)


class Bed:
    """The node's settings by cloud=, the edge's by edge=; dotted names with two underscores as everywhere. place(daemon) says
    before the node starts where it is to stand."""

    def __init__(self, cloud=None, edge=None, alone=False, place=lambda daemon: daemon):
        self.site = Site()
        full, small = self.site.models()
        try:
            self.cloud = None if alone else place(self.site.cloud(full, **(cloud or {}))).start()
            self.mode = "local" if alone else "exact"
            settings = {"coop__reconnect_ms": 15000, **(edge or {})}
            self.edge = self.site.edge(small, None if alone else self.cloud.address, **settings).start()
            self.right = self.answer()
            self.answer()
            self.before = {d.name: (resident_kib(d), descriptors(d)) for d in self.daemons()}
        except BaseException:
            self.site.__exit__(*sys.exc_info())
            raise

    def daemons(self):
        return [d for d in (self.cloud, self.edge) if d]

    def answer(self, seconds=60):
        answer = ask(self.edge, self.mode, timeout=seconds)
        expect(answer.error is None, f"no answer: {answer.error}")
        return answer.ids

    def check(self, seconds=20):
        """Alive, the same tokens as before, descriptors and memory as before."""
        for daemon in self.daemons():
            expect(daemon.process.poll() is None, f"{daemon.name} ended with {daemon.process.returncode}: {daemon.tail()}")
        started = time.monotonic()
        expect(self.answer() == self.right, "another answer than before")
        took = time.monotonic() - started
        expect(took < seconds, f"an answer took {took:.1f} s")
        for daemon in self.daemons():
            kib, n = self.before[daemon.name]
            wait_until(lambda: descriptors(daemon) <= n + 4, 20,  # noqa: B023
                       f"{daemon.name}: {n} descriptors before, {descriptors(daemon)} now")
            wait_until(lambda: resident_kib(daemon) - kib < GROWTH_KIB, 20,  # noqa: B023
                       f"{daemon.name}: {kib} KiB before, {resident_kib(daemon)} KiB now: that it is not much more")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        """SIGTERM and exit status 0 are part of every row."""
        self.site.__exit__(kind, value, trace)
