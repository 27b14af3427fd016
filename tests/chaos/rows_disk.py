# SPDX-License-Identifier: Apache-2.0
"""Rows of the fault table whose fault is a disk that gives errors or takes its time, below some folders and for some kinds of
calls (tests/support/ailing.c; libfiu's fiu-run knows no folders: it would fail sockets too)."""
import errno
import mmap
import os
import struct
import threading
import time

from bed import PROMPT, ask, descriptors
from loadlib import Site
from harness import BIN, binary, complete, expect, request, run, wait_until
from test_fleet import Fleet, metric, serial, trouble

LIBRARY = os.path.join(os.path.dirname(BIN), "tests", "libshoal-ailing.so")
KINDS = ("open", "read", "write", "sync", "rename")
LEDGER_S = 60  # SHOAL_LEDGER_MS of edge/daemon/ledger.h
WORDS = "red green blue round flat hot cold".split()


class Disk:
    """Some folders as one daemon, or one command, sees them."""

    FAILS, NUMBER, WAITS, WAIT_US, CALLS, FAILED, WAITED = range(7)

    def __init__(self, site, *folders):
        path = site.file(f"ailing-{os.urandom(4).hex()}")
        with open(path, "wb") as f:
            f.write(bytes(8 * 7))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 8 * 7)
        self.prefix = ["env", f"LD_PRELOAD={LIBRARY}", f"SHOAL_AILING={path}", f"SHOAL_AILING_FOLDERS={':'.join(folders)}"]

    def get(self, i):
        return struct.unpack_from("q", self.map, 8 * i)[0]

    def put(self, i, value):
        struct.pack_into("q", self.map, 8 * i, value)

    @staticmethod
    def bits(kinds):
        return sum(1 << KINDS.index(kind) for kind in kinds)

    def fail(self, *kinds):
        """With EIO, from now on and only these."""
        self.put(self.NUMBER, errno.EIO)
        self.put(self.FAILS, self.bits(kinds))

    def slow(self, seconds, *kinds):
        self.put(self.WAIT_US, int(1e6 * seconds))
        self.put(self.WAITS, self.bits(kinds))

    def heal(self):
        self.fail()
        self.slow(0)


def texts(rng, n):
    return [f"{PROMPT} " + " ".join(rng.choice(WORDS) for _ in range(120)) for _ in range(n)]


def with_log_in(daemon, folder):
    daemon.log = os.path.join(folder, daemon.name + ".log")
    return daemon


class Stored:
    """A node whose store is on the disk, and one that has none to say what is right."""

    def __init__(self, site, rng):
        full, small = site.models()
        self.rng, self.folder = rng, site.file("store")
        os.mkdir(self.folder)
        self.reference = site.edge(small, site.cloud(full).start().address).start()
        self.cloud = site.cloud(full, store__kind="disk", store__folder=self.folder, store__always="true",
                                http__address="127.0.0.1:0", kv__max_mib=8)  # little: blocks are read back
        self.disk = Disk(site, self.folder)
        with_log_in(self.cloud, self.folder).prefix = self.disk.prefix
        self.cloud.start()
        self.url = self.cloud.process.stdout.readline().removeprefix("http: ").strip()
        self.edge = site.edge(small, self.cloud.address).start()
        self.kept = []

    def n_files(self):
        return sum(name.endswith(".kv") for name in os.listdir(self.folder))

    def answers(self, what, n_new=2, n_old=2):
        """New texts are stored and old ones read back, as far as the disk lets; the slowest answer in seconds."""
        new = texts(self.rng, n_new)
        slowest = 0
        for text in new + self.rng.sample(self.kept, min(n_old, len(self.kept))):
            right = complete(self.reference.address, text, "exact", n=8, temperature=0)
            started = time.monotonic()
            answer = complete(self.edge.address, text, "exact", n=8, temperature=0)
            slowest = max(slowest, time.monotonic() - started)
            expect(answer.error is None and answer.ids == right.ids, f"{what}: {answer.error or 'another answer'}")
        self.kept += new
        return slowest

    def errors(self):
        lines = request(self.url, "GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("shoal_store_errors_total"))


def store_errors(rng):
    """The store's disk gives EIO, for each kind of call and for all: no token changes, and it stores again afterwards."""
    with Site() as site:
        stored = Stored(site, rng)
        stored.answers("a sound disk", 4, 0)
        wait_until(lambda: stored.n_files() > 0, 20, "blocks on the disk")
        n_fds, failed = descriptors(stored.cloud), []
        for kinds in (("open",), ("read",), ("write",), ("rename",), KINDS):
            before = stored.disk.get(Disk.FAILED)
            stored.disk.fail(*kinds)
            wait_until(lambda: stored.answers(f"EIO of {kinds}") >= 0 and stored.disk.get(Disk.FAILED) > before, 30,  # noqa: B023
                       f"EIO of {kinds}")
            stored.disk.heal()
            failed.append(stored.disk.get(Disk.FAILED) - before)
        expect(stored.errors() > 0, "the node has counted no error of its store")
        n = stored.n_files()
        wait_until(lambda: stored.answers("a disk that is sound again") >= 0 and stored.n_files() > n, 20, "that it stores again")
        wait_until(lambda: not any(name.endswith(".tmp") for name in os.listdir(stored.folder)), 10,
                   "that no half of a block is left")  # one may be on its way
        expect(descriptors(stored.cloud) <= n_fds + 4, f"{n_fds} descriptors before, {descriptors(stored.cloud)} now")
        n_errors = stored.errors()
        stored.disk.fail(*KINDS)
        stored.cloud.stop()
        return (f"{sum(failed)} calls failed, {n_errors:.0f} errors counted; {len(stored.kept)} texts answered right, "
                f"{n} blocks before it was sound again and {stored.n_files()} after")


def edge_errors(rng):
    """The edge's disk gives EIO: log, budgets, bundles and saved sessions. It serves on, says what is wrong, and goes on where
    it was when the disk is sound."""
    with Site() as site:
        full, small = site.models()
        folder = site.file("disk")
        os.mkdir(folder)
        fleet = Fleet(site)
        cloud = fleet.serve(full)
        fleet.make(1, small)
        ledger, bundles = os.path.join(folder, "budget"), os.path.join(folder, "state")
        edge = with_log_in(fleet.edge(small, cloud.address, folder="disk/state", mode__default="exact", budget__file=ledger,
                                      budget__cloud_tokens_per_hour=1000000), folder)
        disk = Disk(site, folder)
        edge.prefix = disk.prefix
        edge.start()
        right = ask(edge).ids
        n_fds = descriptors(edge)

        def served(what):
            for mode in ("exact", "cloud"):
                answer = ask(edge, mode)
                expect(answer.error is None and answer.ids == right, f"{what}: {answer.error or 'another answer'}")

        fleet.roll("1 100")
        disk.fail(*KINDS)
        fleet.reload()
        wait_until(lambda: "Input/output error" in trouble(edge), 30, "words about the disk in the status")
        for kind in KINDS:
            before = disk.get(Disk.FAILED)
            disk.fail(kind)
            wait_until(lambda: served(f"EIO of {kind}") or disk.get(Disk.FAILED) > before or serial(edge), 10,  # noqa: B023
                       f"EIO of {kind}")
        failed = disk.get(Disk.FAILED)
        disk.heal()
        wait_until(lambda: serial(edge) == 1, 30, f"the bundle: {trouble(edge)}")
        served("the bundle")
        expect(trouble(edge) == "", trouble(edge))
        save = [*disk.prefix, binary("shoal"), "--url", edge.address]
        complete(edge.address, PROMPT, "local", n=8, chat=True, temperature=0, shoal={"mode": "local", "session": "pump"})
        path = os.path.join(folder, "pump.kv")
        for kind in ("sync", "rename", "open"):
            disk.fail(kind)
            done = run(*save, "session", "save", "pump", path, check=False)
            expect(done.returncode == 1 and "pump.kv" in done.stderr and "Input/output error" in done.stderr, f"{kind}: {done}")
            expect(not os.path.exists(path) and not os.path.exists(path + ".part"), f"{kind}: a part was left")
        disk.heal()
        run(*save, "session", "save", "pump", path)
        run(*save, "session", "load", "again", path)
        expect(descriptors(edge) <= n_fds + 4, f"{n_fds} descriptors before, {descriptors(edge)} now")
        disk.fail(*KINDS)
        edge.stop()  # budgets cannot be written, nor can that be logged
        expect(not os.path.exists(ledger) and not os.path.exists(ledger + ".tmp"), "half a ledger")
        disk.heal()
        edge.start()
        served("a start on a sound disk")
        expect(serial(edge) == 1, "the bundle was lost")
        edge.stop()
        expect(os.path.getsize(ledger) > 0 and "stopped" in edge.tail(), "budgets and log are not written again")
        return (f"{failed} calls failed; the bundle came afterwards, a session was saved whole or not at all, budgets and log "
                "go on")


def bundle_unreadable(rng):
    """A bundle that came whole cannot be read when it is to be tried: that is the disk's fault, and it is taken later."""
    with Site() as site:
        full, small = site.models()
        fleet = Fleet(site)
        cloud = fleet.serve(full)
        fleet.make(1, small)
        fleet.roll("1 100")
        fleet.reload()
        edge = fleet.edge(small, cloud.address)
        disk = Disk(site, site.file("state/bundles"))
        edge.prefix = disk.prefix
        disk.fail("read")
        edge.start()
        wait_until(lambda: "Input/output error" in trouble(edge), 30, "words about the disk in the status")
        before = disk.get(Disk.FAILED)
        wait_until(lambda: disk.get(Disk.FAILED) > before + 4, 30, "more tries than a program may end of")
        expect(ask(edge, "local").error is None, "the edge no longer serves")
        disk.heal()
        wait_until(lambda: serial(edge) == 1, 20, f"the bundle after the disk is sound: {trouble(edge)}")
        edge.stop()
        return f"{disk.get(Disk.FAILED)} reads failed; the bundle was taken afterwards"


def bundle_unreadable_at_start(rng):
    """The bundle that runs cannot be read when the edge starts: the one before runs until it can, without a new one being sent."""
    with Site() as site:
        full, small = site.models()
        fleet = Fleet(site)
        cloud = fleet.serve(full)
        edge = fleet.edge(small, cloud.address)
        for n in (1, 2):
            fleet.make(n, small)
            fleet.roll(f"{n} 100")
            fleet.reload()
            if n == 1:
                edge.start()
            wait_until(lambda n=n: serial(edge) == n, 30, f"bundle {n}: {trouble(edge)}")
        edge.stop()
        disk = Disk(site, site.file("state/bundles/2"))
        edge.prefix = disk.prefix
        for start in range(3):  # more than a bundle on trial may have
            disk.fail("read")
            edge.start()
            wait_until(lambda: "Input/output error" in trouble(edge), 30, "words about the disk in the status")
            expect(serial(edge) == 1, f"start {start}: {serial(edge)}, {trouble(edge)}")
            before = disk.get(Disk.FAILED)
            wait_until(lambda: disk.get(Disk.FAILED) > before + 1, 30, "more tries")
            expect(ask(edge, "local").error is None, "the edge does not serve")
            if start < 2:
                edge.stop()
        sent = metric(cloud.http, "shoal_fleet_files_sent_total")
        disk.heal()
        wait_until(lambda: serial(edge) == 2, 20, f"the bundle after the disk is sound: {trouble(edge)}")
        expect(metric(cloud.http, "shoal_fleet_files_sent_total") == sent, "it was sent again")
        edge.stop()
        return f"{disk.get(Disk.FAILED)} reads failed; bundle 1 ran, then bundle 2 again"


class Health:
    """The longest that a daemon took to say that it is well."""

    def __init__(self, url, path):
        self.worst, self.failure, self.stop = 0.0, None, threading.Event()
        self.thread = threading.Thread(target=self.run, args=(url, path))
        self.thread.start()

    def run(self, url, path):
        try:
            while not self.stop.is_set():
                started = time.monotonic()
                expect(request(url, "GET", path, timeout=30)[0] == 200, path)
                self.worst = max(self.worst, time.monotonic() - started)
                time.sleep(0.05)
        except Exception as error:  # noqa: BLE001 - told by judge
            self.failure = error

    def judge(self, what):
        self.stop.set()
        self.thread.join(60)
        expect(self.failure is None, f"{what}: {self.failure}")
        expect(self.worst < 1, f"{what}: health took {self.worst:.2f} s")
        return self.worst


def store_slow(rng):
    """Each call on the node's disk, with its store and its log, takes a third of a second: no answer waits for longer than
    store.wait_ms, health is told within a second, and SIGTERM ends the node though much is still to be stored."""
    with Site() as site:
        stored = Stored(site, rng)
        health = Health(stored.url, "/healthz")
        quick = stored.answers("a quick disk", 4, 0)
        stored.disk.slow(0.3, *KINDS)
        slow = max(stored.answers("a slow disk", 6, 4) for _ in range(2))
        expect(slow < quick + 3, f"an answer took {slow:.1f} s, {quick:.1f} s with a quick disk")
        stored.answers("much to be stored at the end", 16, 0)
        worst = health.judge("node")
        started = time.monotonic()
        stored.cloud.stop(20)
        return (f"{len(stored.kept)} texts, answers within {slow:.1f} s ({quick:.1f} s before), health within "
                f"{1e3 * worst:.0f} ms, an end after {time.monotonic() - started:.1f} s")


def edge_slow(rng):
    """Each call on the edge's disk, with its budgets and its log, takes a second: no answer waits for it, nor does health. It
    takes a minute, for budgets are written once in one."""
    with Site() as site:
        full, small = site.models()
        folder = site.file("disk")
        os.mkdir(folder)
        ledger = os.path.join(folder, "budget")
        edge = with_log_in(site.edge(small, site.cloud(full).start().address, budget__file=ledger,
                                     budget__cloud_tokens_per_hour=1000000), folder)
        disk = Disk(site, folder)
        edge.prefix = disk.prefix
        disk.slow(1, *KINDS)
        edge.start()
        started, slowest, n = time.monotonic(), 0, 0
        right = ask(edge).ids
        health = Health(edge.address, "/health")
        while not os.path.exists(ledger):
            expect(time.monotonic() - started < LEDGER_S + 25, "the edge's budgets are not written")
            asked = time.monotonic()
            expect(ask(edge).ids == right, "another answer")
            slowest, n = max(slowest, time.monotonic() - asked), n + 1
            time.sleep(rng.uniform(0, 0.2))
        looked = time.monotonic() - started
        worst = health.judge("edge")
        expect(slowest < 1, f"an answer took {slowest:.1f} s")
        started = time.monotonic()
        edge.stop(20)
        return (f"{n} answers within {1e3 * slowest:.0f} ms, health within {1e3 * worst:.0f} ms, budgets written after "
                f"{looked:.0f} s, an end after {time.monotonic() - started:.1f} s")
