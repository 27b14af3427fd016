# SPDX-License-Identifier: Apache-2.0
"""Rows of the fault table whose fault is the world around the daemons: files, disks, clocks, signals, limits."""
import http.client
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

from bed import PROMPT, Bed, ask, cpu_seconds, descriptors
from loadlib import Site, make_tenant
from harness import SOURCE, binary, complete, expect, request, run, wait_until

CERTS = os.path.join(SOURCE, "deploy/certs/make-dev-certs")
NO_END = {"logit_bias": {"1": -100, "2": -100}}
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Stream:
    """A long answer that runs while something happens."""

    def __init__(self, edge, mode, n=400):
        self.answer, self.begun = None, threading.Event()
        self.thread = threading.Thread(target=self.run, args=(edge, mode, n))
        self.thread.start()
        expect(self.begun.wait(60), "the stream did not begin")

    def run(self, edge, mode, n):
        try:
            self.answer = ask(edge, mode, n, on_event=lambda _: self.begun.set(), **NO_END)
        finally:
            self.begun.set()

    def ids(self):
        self.thread.join(120)
        expect(self.answer is not None and self.answer.error is None, f"the stream failed: {self.answer and self.answer.error}")
        return self.answer.ids


# --- files ---

def model_replaced(rng):
    """Another file takes the model's name while it is mapped: the old one serves on, the new one is read at start."""
    with Site() as site:
        full, _ = site.models()
        path = site.file("model.gguf")
        shutil.copy(full, path)
        edge = site.edge(path).start()
        right = ask(edge, "local").ids
        with open(path + ".new", "wb") as f:
            f.write(rng.randbytes(100000))
        os.rename(path + ".new", path)
        expect(ask(edge, "local").ids == right, "another answer")
        edge.stop()
        site.daemons.remove(edge)  # what follows does not start
        try:
            edge.start()
        except AssertionError as error:
            expect("did not start" in str(error) and "model.gguf: not a GGUF" in edge.tail(), error)
        else:
            edge.kill()
            raise AssertionError("random bytes were taken for a model")
    return "replaced by rename"


def model_cut_short(rng):
    """A file that is cut under the daemon that mapped it: a plain one was read, and serves on; a packed one ends it by SIGBUS,
    the cut file is refused with its reason, and the whole one serves again."""
    with Site() as site:
        _, small = site.models()
        packed = site.file("packed.gguf")
        run(binary("shoal-forge"), "pack", "-m", small, "-o", packed)
        notes = []
        for whole in (small, packed):
            path = site.file("cut.gguf")
            shutil.copy(whole, path)
            edge = site.edge(path).start()
            right = ask(edge, "local").ids
            os.truncate(path, 4096 * rng.randrange(1, 8))
            try:
                served = ask(edge, "local", timeout=30).ids == right
            except (OSError, AssertionError, http.client.HTTPException, json.JSONDecodeError):
                served = False
            if served:
                expect(whole == small, "a packed file that was cut is answered from")
                edge.stop()
            else:
                expect(edge.process.wait(10) == -signal.SIGBUS, f"it ended with {edge.process.returncode}: {edge.tail()}")
                edge.kill()
            site.daemons.remove(edge)  # what follows does not start at first
            try:
                edge.start()
            except AssertionError as error:
                expect("did not start" in str(error) and "model cut.gguf: " in edge.tail(), edge.tail())
            else:
                edge.kill()
                raise AssertionError("a file that was cut was taken for a model")
            shutil.copy(whole, path)
            site.daemons.append(edge.start())
            expect(ask(edge, "local").ids == right, "another answer with the whole file")
            notes.append(f"{os.path.basename(whole)}: {'serves on' if served else 'ends, and comes back'}")
    return "; ".join(notes)


def settings_that_are_no_file(rng):
    """A directory, a gibibyte, an unreadable and a binary file as configuration: status 1, one line, at once."""
    with Site() as site:
        huge, junk, twice = site.file("huge.yaml"), site.file("junk.yaml"), site.file("twice.yaml")
        with open(huge, "wb") as f:
            f.truncate(1 << 30)
        with open(junk, "wb") as f:
            f.write(rng.randbytes(5000))
        with open(twice, "w", encoding="ascii") as f:
            f.write("log:\n  level: info\nlog:\n  level: debug\n")
        for name in ("shoal-edge", "shoal-cloud"):
            for path in (site.path, huge, junk, twice, site.file("missing.yaml"), "/dev/full", "/proc/self/mem"):
                done = run(binary(name), "--config", path, "--check-config", check=False, timeout=10)
                expect(done.returncode == 1 and path in done.stderr and done.stderr.count("\n") <= 2,
                       f"{name} --config {path}: {done.returncode} {done.stderr!r}")
    return "7 files, both daemons"


# --- certificates and clocks ---

def certificates(rng):
    """Expired, not yet valid, of another authority, another name, a client's as a server's: no answer, and the edge serves on."""
    with Site() as site:
        full, small = site.models()
        for folder, when in (("past", "-400d"), ("future", "+400d")):
            os.mkdir(site.file(folder))
            for name in ("ca.pem", "ca.key"):
                shutil.copy(site.file(f"certs/{name}"), site.file(f"{folder}/{name}"))
            run("faketime", "-f", when, CERTS, site.file(folder))
        run(CERTS, site.file("other"))
        cloud = site.cloud(full).start()

        def refused(node, what, **settings):
            edge = site.edge(small, node.address, coop__reconnect_ms=800, **settings).start()
            answer = ask(edge, "exact", timeout=20)
            expect(answer.error is not None and answer.error["message"], f"{what} was taken")
            expect(ask(edge, "local").error is None, f"{what}: the edge no longer serves")
            edge.stop()
            return answer.error["message"] + edge.tail()

        n = 0
        for folder in ("past", "future", "other"):
            try:
                refused(cloud, f"a client's certificate of {folder}", cloud__cert=site.file(f"{folder}/edge.pem"),
                        cloud__key=site.file(f"{folder}/edge.key"))
            except AssertionError as error:
                if "did not start" not in str(error):
                    raise
                site.daemons.pop()  # refused when it was read
            n += 1
            node = site.cloud(full, tls__cert=site.file(f"{folder}/cloud.pem"), tls__key=site.file(f"{folder}/cloud.key"))
            try:
                node.start()
                refused(node, f"a node's certificate of {folder}")
                node.stop()
            except AssertionError as error:
                if "did not start" not in str(error):
                    raise
                expect("certificate" in node.tail(), node.tail())
                site.daemons.remove(node)
            n += 1
        refused(cloud, "another name", cloud__name_override="elsewhere.example")
        node = site.cloud(full, tls__cert=site.file("certs/edge.pem"), tls__key=site.file("certs/edge.key")).start()
        refused(node, "a client's certificate as a node's")
        expect(ask(site.edge(small, cloud.address).start(), "exact").error is None, "the node no longer serves")
    return f"{n + 2} certificates"


def replace(path, source):
    """Another file's content under this name, by rename."""
    shutil.copy(source, path + ".new")
    os.rename(path + ".new", path)


def hang_up(daemon):
    """SIGHUP; returns when the daemon says that it is through."""
    def said():
        with open(daemon.log, encoding="utf-8", errors="replace") as f:
            return [line for line in f if " reload" in line]

    before = len(said())
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(said()) > before, 10, f"a reload of {daemon.name}")
    expect("refused" not in said()[-1], said()[-1])


def authority_gone(rng):
    """One side no longer lists the authority of the other's certificate. What is under way ends whole, what would begin is
    refused with the reason at once, on a connection that stands as on a new one; others are served; and all is well again
    when the authority is back, or the certificate was replaced by one of the authority that is there."""
    with Bed(edge={"coop__reconnect_ms": 1500}) as bed:
        site = bed.site
        ca, old = site.file("certs/ca.pem"), site.file("old-ca.pem")
        shutil.copy(ca, old)
        run(CERTS, site.file("other"))
        new = site.file("other/ca.pem")
        right = ask(bed.edge, "cloud", 400, **NO_END).ids
        _, small = site.models()
        other = site.edge(small, bed.cloud.address, cloud__ca=old, cloud__cert=site.file("other/edge.pem"),
                          cloud__key=site.file("other/edge.key"))

        def turn(daemon, authority):
            """A stream is under way while the daemon reads this authority."""
            stream = Stream(bed.edge, "cloud")
            time.sleep(rng.uniform(0, 0.1))
            replace(ca, authority)
            hang_up(daemon)
            expect(stream.ids() == right, f"another answer while {daemon.name} reads another authority")

        def refused(words):
            started = time.monotonic()
            answer = ask(bed.edge, "exact", timeout=20)
            seconds = time.monotonic() - started
            expect(answer.error is not None, "an authority that is not listed was believed")
            expect(words in answer.error["message"] and seconds < 5, f"after {seconds:.1f} s: {answer.error}")
            for mode in ("local", "assist"):
                answer = ask(bed.edge, mode, timeout=20)
                expect(answer.error is None and "cloud" not in answer.tiers, f"{mode}: {answer.error} {answer.tiers}")
            return seconds

        def served(what, edge):
            wait_until(lambda: ask(edge, "exact").error is None, 20, f"service {what}")
            expect(ask(edge, "exact").ids == bed.right, f"another answer {what}")

        turn(bed.cloud, new)
        times = [refused("no longer trusted")]
        other.start()
        served("of an edge of the authority that is listed", other)
        other.stop()
        site.daemons.remove(other)
        replace(ca, old)
        hang_up(bed.cloud)
        served("when the authority is back at the node", bed.edge)
        turn(bed.edge, new)
        times.append(refused("certificate"))
        replace(ca, old)
        hang_up(bed.edge)
        served("when the authority is back at the edge", bed.edge)
        turn(bed.cloud, new)
        times.append(refused("no longer trusted"))
        for name in ("edge.pem", "edge.key"):
            replace(site.file(f"certs/{name}"), site.file(f"other/{name}"))
        replace(ca, old)  # of the node's certificate
        hang_up(bed.edge)
        served("when the edge's certificate was replaced", bed.edge)
        bed.check()
    return f"refused after {', '.join(f'{1e3 * s:.0f} ms' for s in times)}; 3 streams whole, back each time by SIGHUP alone"


def clock_jumps(rng):
    """The wall clock of both sides goes an hour ahead, an hour back, ten years ahead under a stream: no timer notices."""
    with Site() as site:
        full, small = site.models()
        path = site.file("clock")

        def clock(text):
            with open(path + ".new", "w", encoding="ascii") as f:
                f.write(text + "\n")
            os.rename(path + ".new", path)

        clock("+0")
        cloud = site.cloud(full, sessions__idle_ms=20000)
        edge = site.edge(small, None)
        fake = ["env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={path}", "FAKETIME_NO_CACHE=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        cloud.prefix = fake
        cloud.start()
        edge = site.edge(small, cloud.address, requests__deadline_ms=30000)
        edge.prefix = fake
        edge.start()
        right = ask(edge, "cloud", 400, **NO_END).ids
        for jump in ("+3600", "-3600", "+3650d", "+0"):
            stream = Stream(edge, "cloud")
            clock(jump)
            expect(stream.ids() == right, f"another answer when the clock jumps to {jump}")
            expect(request(edge.address, "GET", "/health")[0] == 200, "health")
        expect(ask(edge, "exact").error is None, "no answer when the clock is right again")
    return "+1 h, -1 h, +10 years and back under streams"


# --- disks ---

def disk_trouble(rng):
    """The store's disk is full, then has room again; the log goes to a full device: no token changes."""
    with Site() as site:
        full, small = site.models()
        folder = site.file("disk")
        os.mkdir(folder)
        run("mount", "-t", "tmpfs", "-o", "size=256k", "shoal-chaos", folder)
        try:
            plain = site.cloud(full).start()
            reference = site.edge(small, plain.address).start()
            texts = [f"{PROMPT} " + " ".join(rng.choice("red green blue round flat hot cold".split()) for _ in range(120))
                     for _ in range(12)]
            right = [complete(reference.address, text, "exact", n=8, temperature=0).ids for text in texts]
            expect(all(right), "no reference")
            cloud = site.cloud(full, store__kind="disk", store__folder=folder, store__always="true")
            log, cloud.log = cloud.log, "/dev/full"
            cloud.start()
            cloud.log = log  # reading /dev/full would never end
            edge = site.edge(small, cloud.address).start()

            def all_right(when):
                for text, ids in zip(texts, right):
                    answer = complete(edge.address, text, "exact", n=8, temperature=0)
                    expect(answer.error is None and answer.ids == ids, f"{when}: {answer.error or 'another answer'}")

            all_right("full disk")
            used = os.statvfs(folder)
            expect(used.f_bavail * used.f_bsize < 65536, "the disk was never full")
            run("mount", "-o", "remount,size=16m", folder)
            all_right("disk is back")
            cloud.stop()
            return f"full at {used.f_bavail * used.f_bsize} bytes left, then not; {2 * len(texts)} answers"
        finally:
            run("umount", "-l", folder)


def disk_read_only(rng):
    """Nobody may write to the store's folder, root neither, then again: no token changes, and what comes later is stored."""
    with Site() as site:
        full, small = site.models()
        folder = site.file("disk")
        os.mkdir(folder)
        try:
            plain = site.cloud(full).start()
            reference = site.edge(small, plain.address).start()
            cloud = site.cloud(full, store__kind="disk", store__folder=folder, store__always="true").start()
            edge = site.edge(small, cloud.address).start()

            def ask_all(when):
                for _ in range(6):
                    text = f"{PROMPT} " + " ".join(rng.choice("red green blue round flat hot cold".split()) for _ in range(120))
                    right = complete(reference.address, text, "exact", n=8, temperature=0)
                    answer = complete(edge.address, text, "exact", n=8, temperature=0)
                    expect(answer.error is None and answer.ids == right.ids, f"{when}: {answer.error or 'another answer'}")
                return sum(len(names) for _, _, names in os.walk(folder))

            n = [ask_all("before")]
            for option in ("+i", "-i"):
                run("chattr", "-R", option, folder)
                n.append(ask_all(option))
            expect(n[0] > 0 and n[1] <= n[0], f"files before, read-only, afterwards: {n}")
            wait_until(lambda: ask_all("afterwards") > n[1], 20, "that it stores again")
            cloud.stop()
            return f"files before, read-only, afterwards: {n}"
        finally:
            run("chattr", "-R", "-i", folder)


# --- limits ---

class Group:
    """A control group of version 1 that one daemon is started in."""

    def __init__(self, kind, limits):
        self.path = f"/sys/fs/cgroup/{kind}/shoal-chaos-{os.getpid()}"
        os.mkdir(self.path)
        for name, value in limits.items():
            self.put(name, value)
        self.prefix = ["sh", "-c", f'echo $$ >{self.path}/cgroup.procs && exec "$@"', "sh"]

    def put(self, name, value):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as f:
            f.write(str(value))

    def get(self, name):
        with open(os.path.join(self.path, name), encoding="ascii") as f:
            return f.read()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        wait_until(lambda: not self.get("cgroup.procs").strip(), 20, "an empty group")
        os.rmdir(self.path)


def memory_group(rng):
    """A group with room for the KV that is allowed and little more, under more prompts than that holds: nothing ends it."""
    limit_mib = 48
    with Group("memory", {"memory.limit_in_bytes": limit_mib << 20}) as group, Site() as site:
        full, small = site.models()
        cloud = site.cloud(full, kv__max_mib=16)
        cloud.prefix = group.prefix
        cloud.start()
        edges = [site.edge(small, cloud.address, coop__reconnect_ms=20000).start() for _ in range(2)]
        right = ask(edges[0]).ids
        counts = {"whole": 0, "refused": 0}

        def many(edge, seed):
            words = random.Random(seed)
            for _ in range(6):
                text = " ".join(words.choice("red green blue round flat hot cold".split()) for _ in range(300))
                answer = complete(edge.address, text, "cloud", n=64, temperature=0, timeout=120)
                expect(answer.error is None or answer.error["message"], "an error without words")
                counts["refused" if answer.error else "whole"] += 1

        threads = [threading.Thread(target=many, args=(edge, rng.random())) for edge in edges for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        expect(cloud.process.poll() is None, f"the node ended with {cloud.process.returncode}: {cloud.tail()}")
        expect(sum(counts.values()) == 96 and counts["whole"] > 0, counts)
        expect(ask(edges[1]).ids == right, "another answer afterwards")
        most = int(group.get("memory.max_usage_in_bytes")) / (1 << 20)
        expect("oom_kill 0" in group.get("memory.oom_control"), group.get("memory.oom_control"))
        site.__exit__(None, None, None)
    return f"{counts['whole']} whole, {counts['refused']} refused, at most {most:.0f} of {limit_mib} MiB"


def no_more_threads(rng):
    """The n-th thread cannot be made, for every n: a daemon ends with a reason, or serves; it neither hangs nor dies of it."""
    notes = []
    for kind in ("edge", "cloud"):
        with Group("pids", {}) as group, Site() as site:
            full, small = site.models()
            n_refused, n_most = 0, None
            for n in range(1, 64):
                daemon = site.edge(small) if kind == "edge" else site.cloud(full)
                site.daemons.remove(daemon)  # what does not start is judged here
                daemon.prefix = group.prefix
                group.put("pids.max", n)
                late = threading.Timer(30, lambda d=daemon: d.process and d.process.kill())
                late.start()
                try:
                    daemon.start()
                except AssertionError as error:
                    expect("did not start" in str(error), error)
                    code = daemon.process.returncode
                    expect(code == 1 and "thread" in daemon.tail(), f"{kind} of {n} threads ended with {code}: {daemon.tail()}")
                    n_refused += 1
                    continue
                finally:
                    late.cancel()
                used = int(group.get("pids.current"))
                if kind == "edge":
                    expect(ask(daemon, "local").error is None, f"an edge of {n} threads started and does not answer")
                daemon.stop()
                if used < n - 2:
                    n_most = used
                    break
            expect(n_refused > 0 and n_most, f"{kind}: {n_refused} refused, {n_most} threads")
            notes.append(f"{kind}: {n_refused} starts refused, {n_most} threads at most")
    return "; ".join(notes)


def address_space(rng):
    """No address space beyond what is mapped: requests are served or refused, and served again when there is some."""
    with Bed(alone=True) as bed:
        pid = bed.edge.process.pid
        size = int(open(f"/proc/{pid}/statm", encoding="ascii").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        before = resource.prlimit(pid, resource.RLIMIT_AS)
        served = refused = 0
        for room in (0, 64 << 10, 256 << 10, 1 << 20, 4 << 20):
            resource.prlimit(pid, resource.RLIMIT_AS, (size + room, before[1]))
            for n in (1, 2000):
                try:
                    status, _, reply = request(bed.edge.address, "POST", "/v1/completions",
                                               json.dumps({"prompt": "Once " * n, "max_tokens": 4, "shoal": {"mode": "local"}}),
                                               {"Content-Type": "application/json"}, timeout=20)
                    expect(status in (200, 400, 413, 429, 500, 503), f"{status} {reply[:200]}")
                    served, refused = served + (status == 200), refused + (status != 200)
                except OSError:
                    refused += 1  # no memory for an answer: the connection is ended
        resource.prlimit(pid, resource.RLIMIT_AS, before)
        bed.check()
    return f"{served} served, {refused} refused"


def node_descriptors(rng):
    """A node without descriptors: no spinning, and service when they are there again."""
    with Bed() as bed:
        pid = bed.cloud.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(bed.cloud) + 8, before[1]))
        host, port = bed.cloud.address.rsplit(":", 1)
        crowd = []
        for _ in range(60):
            s = socket.socket()
            s.settimeout(2)
            try:
                s.connect((host, int(port)))
                crowd.append(s)
            except OSError:
                s.close()
        used = cpu_seconds(bed.cloud)
        time.sleep(3)
        used = cpu_seconds(bed.cloud) - used
        for s in crowd:
            s.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        expect(used < 1.5, f"{used:.1f} s of CPU in 3 s with nothing to do")
        bed.check()
    return f"{len(crowd)} clients at 8 free descriptors, {used:.2f} s of CPU in 3 s"


# --- signals and time ---

def hangups(rng):
    """A thousand SIGHUP and SIGPIPE to both under streams: every token is right."""
    with Bed() as bed:
        right = ask(bed.edge, "cloud", 400, **NO_END).ids
        for daemon in bed.daemons():
            stream = Stream(bed.edge, "cloud")
            for i in range(1000):
                daemon.process.send_signal(signal.SIGPIPE if i % 10 == 9 else signal.SIGHUP)
                time.sleep(0.0005)
            expect(stream.ids() == right, f"another answer under signals to {daemon.name}")
        bed.check()
    return "2 x 1000 signals"


def edge_killed(rng):
    """kill -9 of an edge in the middle of streams: the node frees their places, and serves the next edge."""
    with Bed(cloud={"http__address": "127.0.0.1:0"}) as bed:
        url = bed.cloud.process.stdout.readline().removeprefix("http: ").strip()

        def running():
            text = request(url, "GET", "/metrics")[2].decode()
            return float(next(line for line in text.splitlines() if line.startswith("shoal_requests_running ")).split()[1])

        slowest = 0
        for _ in range(5):
            def one():
                try:
                    ask(bed.edge, "cloud", 400, **NO_END)
                except (OSError, AssertionError, json.JSONDecodeError):
                    pass  # its edge is killed
                except Exception:  # noqa: BLE001 - http.client names a cut answer in many ways
                    pass
            threads = [threading.Thread(target=one) for _ in range(4)]
            for t in threads:
                t.start()
            wait_until(lambda: running() > 0, 20, "streams")
            time.sleep(rng.uniform(0, 0.3))
            bed.edge.kill()
            started = time.monotonic()
            wait_until(lambda: running() == 0, 10, "places freed")
            slowest = max(slowest, time.monotonic() - started)
            for t in threads:
                t.join(60)
            bed.edge.start()
        bed.check()
    return f"5 kills of 4 streams, places free after at most {1e3 * slowest:.0f} ms"


def watchdog(rng):
    """A daemon whose loop stands still feeds no watchdog, so that systemd starts it again; one that goes on does."""
    notes = []
    for kind in ("edge", "cloud"):
        with Site() as site, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(site.file("notify"))
            manager.settimeout(1.5)
            full, small = site.models()
            daemon = site.edge(small) if kind == "edge" else site.cloud(full)
            daemon.prefix = ["env", f"NOTIFY_SOCKET={site.file('notify')}", "WATCHDOG_USEC=400000"]
            daemon.start()

            def fed():
                try:
                    return any(b"WATCHDOG=1" in manager.recv(4096) for _ in range(6))
                except socket.timeout:
                    return False

            expect(fed(), f"the {kind}'s watchdog is not fed")
            os.kill(daemon.process.pid, signal.SIGSTOP)
            manager.setblocking(False)
            time.sleep(0.2)
            while True:
                try:
                    manager.recv(4096)
                except BlockingIOError:
                    break
            manager.settimeout(1.5)
            stopped = fed()
            os.kill(daemon.process.pid, signal.SIGCONT)
            expect(not stopped, f"a {kind} that stands still feeds the watchdog")
            expect(fed(), f"the {kind}'s watchdog is not fed after going on")
            notes.append(kind)
    return " and ".join(notes)


def starvation(rng):
    """Two busy processes for each processor: health answers within a second, deadlines hold, tokens are right."""
    with Bed() as bed:
        hogs = subprocess.Popen(["stress-ng", "--cpu", str(2 * (os.cpu_count() or 1)), "--timeout", "15", "--quiet"],
                                stdin=subprocess.DEVNULL)
        try:
            worst = 0
            end = time.monotonic() + 8
            stream = Stream(bed.edge, "cloud", 200)
            while time.monotonic() < end:
                started = time.monotonic()
                expect(request(bed.edge.address, "GET", "/health")[0] == 200, "health")
                worst = max(worst, time.monotonic() - started)
                time.sleep(0.05)
            expect(len(stream.ids()) == 200, "a stream was cut")
            expect(worst < 1, f"health took {worst:.2f} s")
            expect(bed.answer(60) == bed.right, "another answer")
        finally:
            hogs.terminate()
            hogs.wait()
        bed.check()
    return f"health within {1e3 * worst:.0f} ms"


# --- tenants ---

def mann_whitney(left, right):
    """Two-sided p of the U test, by its normal approximation (Mann and Whitney 1947); values of time have no ties."""
    both = sorted([(x, 0) for x in left] + [(x, 1) for x in right])
    ranks = sum(i + 1 for i, (_, side) in enumerate(both) if side == 0)
    n, m = len(left), len(right)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5
    return math.erfc(abs(z) / 2 ** 0.5)


def first_token_s(edge, text):
    started, first = time.monotonic(), []
    answer = complete(edge.address, text, "cloud", n=2, temperature=0,
                      on_event=lambda _: first or first.append(time.monotonic() - started))
    expect(answer.error is None and first, f"no answer: {answer.error}")
    return first[0], answer


def cache_tells_nothing(rng):
    """What A asked before, B cannot see by the clock; A can, so the cache is there. Neither are A's words anywhere."""
    with Site() as site:
        full, small = site.models()
        cloud = site.cloud(full, http__address="127.0.0.1:0").start()
        url = cloud.process.stdout.readline().removeprefix("http: ").strip()
        edges = []
        for name in ("a", "b"):
            cert, key = make_tenant(site, name)
            edges.append(site.edge(small, cloud.address, cloud__cert=cert, cloud__key=key).start())
        words = "red green blue round flat hot cold big small near far old new wet dry".split()
        n = 40
        texts = ["Zyxomarker " + " ".join(rng.choice(words) for _ in range(200)) for _ in range(2 * n)]
        rng.shuffle(texts)
        primed = set(texts[:n])
        for text in primed:
            first_token_s(edges[0], text)
        first_token_s(edges[1], "warm " + texts[0][11:200])
        times = {True: [], False: []}
        order = texts[:]
        rng.shuffle(order)
        for text in order:
            times[text in primed].append(first_token_s(edges[1], text)[0])
        again = [first_token_s(edges[0], text)[0] for text in primed]
        p_other, p_own = mann_whitney(times[True], times[False]), mann_whitney(again, times[False])
        expect(p_own < 0.001, f"A's own cache is not to be seen (p = {p_own:.3g}): nothing is shown")
        expect(p_other > 0.001, f"B can tell what A asked: p = {p_other:.3g}")
        seen = request(url, "GET", "/metrics")[2].decode() + request(edges[1].address, "GET", "/metrics")[2].decode()
        seen += cloud.tail() + edges[0].tail() + edges[1].tail()
        expect("zyxomarker" not in seen.lower(), "A's words are in metrics or logs")
        return f"2 x {n} prompts: B sees nothing (p = {p_other:.2f}), A its own (p = {p_own:.1e})"
