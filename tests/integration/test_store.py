#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cloud nodes that share KV through a Redis of the test's own: what one computed another takes over, and nothing
that happens to the Redis changes a token or ends a session. Exit 77 where Debian's redis-tools is missing."""
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench", "load"))
from loadlib import make_tenant, metric, start_node  # noqa: E402
from harness import FAMILY_EOS, SANITIZED, SKIPPED, Site, complete, expect, main, parallel, prompts, questions, wait_until  # noqa: E402

SEED = int(os.environ.get("SHOAL_TEST_SEED", "20261128"))
# The server, which looks at the name it is called by; redis-tools has it, and starts none of its own.
SERVER = "/usr/bin/redis-check-rdb"
# The family's own context is 512 tokens; the small models' is shorter.
LONG = " ".join(prompts(4 if SANITIZED else 24, SEED))


class Redis:
    def __init__(self, site):
        self.path = site.file("redis.sock")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "",
                                         "--appendonly", "no", "--dir", os.path.dirname(self.path)], executable=SERVER,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.answers, what="Redis")
        return self

    def answers(self):
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def ask(self, *words):
        """The first bytes of the answer, as Redis speaks."""
        parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(self.path)
            s.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
            return s.recv(1 << 20)

    def blocks(self):
        return int(self.ask("EVAL", "return #redis.call('KEYS', 'shoal:kv:*')", 0).split(b"\r\n")[0].lstrip(b":"))

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()


class Fault(threading.Thread):
    """A way to Redis on which once, at the so-manieth piece of one direction, something happens to what passes."""

    def __init__(self, site, redis):
        super().__init__(daemon=True)
        self.path, self.target = site.file("fault.sock"), redis.path
        self.what, self.way, self.at, self.seen, self.done = None, None, 0, 0, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.start()

    def arm(self, what, way, at):
        self.way, self.at, self.seen, self.done = way, at, 0, 0
        self.what = what

    def run(self):
        while True:
            near = self.listener.accept()[0]
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self.target)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self.carry, args=(near, far), daemon=True).start()

    def spoil(self, way, data):
        """What leaves of it, and whether the connection ends there."""
        if self.what is None or way != self.way:
            return data, False
        self.seen += 1
        if self.seen != self.at:
            return data, False
        what, self.what, self.done = self.what, None, 1
        if what == "flip":  # so much that a token would tell
            middle = len(data) // 2
            data = data[:middle] + bytes(b ^ 255 for b in data[middle:middle + 64]) + data[middle + 64:]
        return {"drop": b"", "repeat": data * 2, "cut": data[:len(data) // 2], "flip": data, "close": b""}[what], \
            what in ("cut", "close")

    def carry(self, near, far):
        try:
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(16384)
                    if not data:
                        return
                    data, ends = self.spoil("up" if ready is near else "down", data)
                    (far if ready is near else near).sendall(data)
                    if ends:
                        return
        except OSError:
            pass
        finally:
            near.close()
            far.close()


def node(site, model, redis, **settings):
    base = {"store__kind": "redis", "store__address": redis.path, "store__wait_ms": "20000", "store__timeout_ms": "10000",
            "store__always": "true"}
    base.update(settings)
    return start_node(site, model, **base)


def ask(edge, text, seed=7, temperature=0.8):
    bias = {} if SANITIZED else {"logit_bias": {str(FAMILY_EOS): -100}}
    return complete(edge.address, text, "cloud", n=16, chat=not SANITIZED, temperature=temperature, seed=seed, **bias)


def check(answer, right, what):
    expect(answer.error is None, f"{what}: {answer.error}")
    expect(answer.ids == right.ids and answer.text == right.text, f"{what}: {answer.ids}, right is {right.ids}")


def hits(a_node):
    return metric(a_node, "shoal_store_hit_tokens_total")


def threads(a_node):
    tasks = f"/proc/{a_node.process.pid}/task"
    names = []
    for task in os.listdir(tasks):
        try:
            with open(f"{tasks}/{task}/comm", encoding="ascii") as f:
                names.append(f.read().strip())
        except OSError:  # it has ended meanwhile
            pass
    return names


def stored(redis, n):
    wait_until(lambda: redis.blocks() >= n, what=f"{n} blocks in Redis, there are {redis.blocks()}")


def test_second_node_takes_what_the_first_computed():
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        alone = site.cloud(full).start()
        right = ask(site.edge(edge_model, alone.address).start(), LONG)
        nodes = [node(site, full, redis) for _ in range(2)]
        edges = [site.edge(edge_model, n.address).start() for n in nodes]
        check(ask(edges[0], LONG), right, "computed and given")
        expect(hits(nodes[0]) == 0, "the first node found something")
        stored(redis, 2)
        check(ask(edges[1], LONG), right, "taken over")
        taken = hits(nodes[1])
        expect(taken >= 64, f"the second node took {taken} tokens")
        expect(metric(nodes[1], 'shoal_store_fetches_total{result="hit"}') == 1, "no hit was counted")
        expect(metric(nodes[1], "shoal_store_get_seconds_count") >= taken / 32, "latency is not counted")
        wait_until(lambda: f" cached={taken:.0f} " in nodes[1].tail(), what=f"cached={taken:.0f} in the log")
        return f"{taken:.0f} tokens taken over"


def test_a_drained_node_leaves_what_it_computed():
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        alone = start_node(site, full)
        right = ask(site.edge(edge_model, alone.address).start(), LONG)
        n_prompt, n_text = right.usage["prompt_tokens"], right.usage["total_tokens"]
        # Redis is silent until the node has been told to end: all that was computed is still to be given.
        first = node(site, full, redis, store__wait_ms="50")
        edge = site.edge(edge_model, first.address).start()
        redis.process.send_signal(signal.SIGSTOP)
        check(ask(edge, LONG), right, "while the store is silent")
        first.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "shoal-engine" not in threads(first), what="the end of the node's engine")
        redis.process.send_signal(signal.SIGCONT)
        first.process.wait(30)
        first.stop()  # looks at its exit status
        expect(redis.blocks() == (n_text - 1) // 32, f"{redis.blocks()} blocks of {n_text} tokens, the last of them without KV")
        second = node(site, full, redis)
        check(ask(site.edge(edge_model, second.address).start(), LONG), right, "after the node is gone")
        taken = hits(second)
        expect(taken == (n_prompt - 1) // 32 * 32 > 0, f"the second node took {taken} of {n_prompt} tokens")
        rows = [metric(n, "shoal_engine_step_rows_sum") for n in (alone, second)]
        expect(rows[0] - rows[1] == taken, f"{rows[1]} tokens were computed, alone {rows[0]}, {taken} were taken")
        return f"{taken:.0f} of {n_prompt} tokens taken over, {rows[1]:.0f} computed, alone {rows[0]:.0f}"


def test_broken_blocks_are_refused_and_computed():
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        first, second = node(site, full, redis), node(site, full, redis)
        right = ask(site.edge(edge_model, first.address).start(), LONG)
        expect(right.error is None, f"{right.error}")
        stored(redis, 2)
        n = redis.ask("EVAL", "local keys = redis.call('KEYS', 'shoal:kv:*') for _, k in ipairs(keys) do "
                              "redis.call('SETRANGE', k, 300, 'broken') end return #keys", 0)
        expect(n.startswith(b":") and int(n[1:].split(b"\r\n")[0]) >= 2, f"{n}")
        check(ask(site.edge(edge_model, second.address).start(), LONG), right, "over broken blocks")
        expect(hits(second) == 0, "a broken block was used")
        expect(metric(second, "shoal_store_refused_total") >= 1, "no broken block was noticed")


def test_tenants_and_secrets_do_not_meet():
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        with open(site.file("secret"), "w", encoding="ascii") as f:
            f.write("a-secret-of-the-operator\n")
        first = node(site, full, redis)
        right = ask(site.edge(edge_model, first.address).start(), LONG)
        stored(redis, 2)
        n_blocks = redis.blocks()
        cert, key = make_tenant(site, "other")
        second = node(site, full, redis)
        other = site.edge(edge_model, second.address, cloud__cert=cert, cloud__key=key).start()
        check(ask(other, LONG), right, "of another tenant")
        expect(hits(second) == 0, "a tenant took another's blocks")
        stored(redis, 2 * n_blocks)
        third = node(site, full, redis, store__secret_file=site.file("secret"))
        check(ask(site.edge(edge_model, third.address).start(), LONG), right, "under another secret")
        expect(hits(third) == 0, "blocks were found under another secret")


def test_public_prompt_is_shared_by_tenants():
    if SANITIZED:
        return "skipped: needs a model with a chat template"
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        with open(site.file("system"), "w", encoding="utf-8") as f:
            f.write(LONG + "\n")
        settings = {"prefix__public": site.file("system")}
        nodes = [node(site, full, redis, **settings) for _ in range(2)]
        cert, key = make_tenant(site, "other")
        edges = [site.edge(edge_model, nodes[0].address).start(),
                 site.edge(edge_model, nodes[1].address, cloud__cert=cert, cloud__key=key).start()]
        body = {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "What does H40 mean?"}]}
        answers = []
        for edge in edges:
            answers.append(complete(edge.address, "", "cloud", n=8, chat=True, temperature=0, **body))
            if len(answers) == 1:
                stored(redis, 2)
        check(answers[1], answers[0], "of another tenant")
        taken = hits(nodes[1])
        expect(taken >= 64, f"another tenant took {taken} tokens of the public prompt")
        return f"{taken:.0f} tokens of a public prompt"


def test_redis_gone_and_back_under_load_changes_no_token():
    texts = [LONG[i % 7:] for i in range(4)] + (prompts if SANITIZED else questions)(4, SEED)
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        alone = site.edge(edge_model, site.cloud(full).start().address).start()
        right = parallel([lambda t=t: ask(alone, t) for t in texts], 4)
        # Without a cache the nodes ask the store again and again.
        nodes = [node(site, full, redis, store__timeout_ms="200", store__wait_ms="200", prefix__percent="0") for _ in range(2)]
        edges = [site.edge(edge_model, n.address).start() for n in nodes]
        over = threading.Event()
        kills = []

        def trouble():
            rng = random.Random(SEED)
            while not over.is_set():
                time.sleep(rng.uniform(0.05, 0.3))
                if rng.random() < 0.5:
                    redis.kill()
                    time.sleep(rng.uniform(0, 0.2))
                    redis.start()
                else:
                    redis.process.send_signal(signal.SIGSTOP)
                    time.sleep(rng.uniform(0, 0.4))
                    redis.process.send_signal(signal.SIGCONT)
                kills.append(1)

        thread = threading.Thread(target=trouble)
        thread.start()
        n_asked = 0
        try:
            while len(kills) < (3 if SANITIZED else 12):
                for text, answer in zip(texts, parallel(
                        [lambda t=t, i=i: ask(edges[i % 2], t) for i, t in enumerate(texts)], 4)):
                    want = right[texts.index(text)]
                    check(answer, want, f"after {len(kills)} troubles (seed {SEED})")
                    n_asked += 1
        finally:
            over.set()
            thread.join()
        expect(sum(metric(n, "shoal_store_errors_total") for n in nodes) > 0, "no node noticed any trouble")

        def recovers():
            before = hits(nodes[1])
            check(ask(edges[0], LONG), right[0], "after the trouble")
            time.sleep(0.1)
            check(ask(edges[1], LONG), right[0], "after the trouble")
            return hits(nodes[1]) > before

        wait_until(recovers, 40, "taking over blocks again")
        return f"{len(kills)} troubles, {n_asked} answers, 0 differ"


# Of one answer's pieces: a get and a put go up, their replies come down, blocks in more pieces than one.
FAULTS = [(what, way, at) for what in ("drop", "repeat", "cut", "flip", "close") for way in ("up", "down") for at in (1, 2, 4)]


def test_any_fault_at_any_step_costs_no_token_and_passes():
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        alone = site.edge(edge_model, site.cloud(full).start().address).start()
        fault = Fault(site, redis)
        # Without a cache each answer asks the store and gives it what it lacks.
        settings = {"store__timeout_ms": "200", "store__wait_ms": "400", "prefix__percent": "0"}
        first = node(site, full, redis, **settings)
        second = node(site, full, fault, **settings)
        edges = [site.edge(edge_model, n.address).start() for n in (first, second)]
        right = ask(alone, LONG)
        check(ask(edges[0], LONG), right, "computed and given")
        stored(redis, 2)
        # After one answer and after all of them the same pages are in use: none is lost.
        check(ask(edges[1], LONG), right, "taken over")
        idle = metric(second, "shoal_kv_cache_usage_ratio")

        def noticed():
            """Blocks that were not what they should be, and answers of Redis that were none."""
            return [sum(metric(n, f"shoal_store_{what}_total") for n in (first, second)) for what in ("refused", "errors")]

        slowest, met, refused = 0, 0, 0
        for what, way, at in FAULTS if not SANITIZED else FAULTS[::5]:
            where = f"{what} of piece {at} {way}"
            before = noticed()
            fault.arm(what, way, at)
            started = time.monotonic()
            check(ask(edges[1], LONG), right, where)
            if way == "up" and at > 1:
                redis.ask("FLUSHALL")  # so that it has something to give
                check(ask(edges[1], LONG), right, f"{where}, given")
            took = time.monotonic() - started
            expect(SANITIZED or took < 2, f"{where}: {took:.1f} s")
            slowest, met = max(slowest, took), met + fault.done
            fault.what = None
            check(ask(edges[0], LONG), right, f"{where}, of the other node")
            more = [now - then for now, then in zip(noticed(), before)]
            if what == "flip" and fault.done:
                expect(way == "up" or any(more), f"{where}: nobody has noticed it")
                refused += more[0] > 0
            stored(redis, 2)

            def recovers(where=where):
                before = hits(second)
                check(ask(edges[1], LONG), right, f"after {where}")
                return hits(second) > before

            wait_until(recovers, 20, f"blocks after {where}")
        wait_until(lambda: metric(second, "shoal_kv_cache_usage_ratio") == idle, 10, "the node's pages, as they were,")
        expect(SANITIZED or met >= 20, f"{met} faults met something")
        expect(SANITIZED or refused >= 3, f"blocks were refused after {refused} of 6 flips")
        return f"{met} faults, slowest {slowest:.1f} s, blocks refused after {refused} of 6 flips"


def test_a_node_killed_while_it_gives_leaves_nothing_half():
    with Site(SEED) as site, Redis(site) as redis:
        full, edge_model = site.models("Q4_0")
        alone = site.edge(edge_model, site.cloud(full).start().address).start()
        right = ask(alone, LONG)
        for kill in range(2 if SANITIZED else 4):
            giver = node(site, full, redis)
            edge = site.edge(edge_model, giver.address, coop__reconnect_ms="100").start()
            asking = threading.Thread(target=lambda e=edge: ask(e, LONG))
            asking.start()
            wait_until(lambda k=kill: redis.blocks() >= k, what=f"{kill} blocks")
            giver.kill()
            site.daemons.remove(giver)  # its end is no clean one
            asking.join()
            taker = node(site, full, redis)
            taken = site.edge(edge_model, taker.address).start()
            check(ask(taken, LONG), right, f"after the kill at {kill} blocks")
            expect(metric(taker, "shoal_store_refused_total") == 0, "a block was half there")
            for daemon in (edge, taken, taker):
                daemon.stop()
            redis.ask("FLUSHALL")


def files_of(folder):
    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)


def test_any_fault_of_a_file_costs_no_token_and_passes():
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        alone = site.edge(edge_model, site.cloud(full).start().address).start()
        right = ask(alone, LONG)
        folder = site.file("blocks")
        settings = {"store__kind": "disk", "store__folder": folder, "store__always": "true", "prefix__percent": "0"}
        for fault in ("flip", "kill") if SANITIZED else ("flip", "cut", "empty", "repeat", "swap", "gone", "kill"):
            a_node = start_node(site, full, **settings)
            edge = site.edge(edge_model, a_node.address).start()
            check(ask(edge, LONG), right, f"{fault}: computed and given")
            wait_until(lambda: len(files_of(folder)) >= 2, what="files of blocks")
            if fault == "kill":
                a_node.kill()
                site.daemons.remove(a_node)  # its end is no clean one
            else:
                a_node.stop()
            files = files_of(folder)
            blocks = [f for f in files if os.path.getsize(f) > 1000]
            for path in blocks if fault != "kill" else []:
                with open(path, "rb") as f:
                    data = bytearray(f.read())
                if fault == "flip":
                    data[len(data) // 2] ^= 1
                if fault == "swap" and path == blocks[-1]:
                    continue
                if fault == "swap":
                    shutil.copyfile(blocks[-1], path)
                elif fault == "gone":
                    os.remove(path)
                else:
                    with open(path, "wb") as f:
                        f.write({"cut": data[:len(data) // 2], "empty": b"", "repeat": data * 2}.get(fault, data))
            started = time.monotonic()
            a_node = start_node(site, full, **settings)
            again = site.edge(edge_model, a_node.address).start()
            asked = time.monotonic()
            check(ask(again, LONG), right, f"{fault}: over those files")
            took = time.monotonic() - asked
            expect(SANITIZED or took < 2, f"{fault}: {took:.1f} s")
            expect(fault == "kill" or hits(a_node) == 0 or fault == "swap", f"{fault}: {hits(a_node)} tokens of broken files")
            wait_until(lambda e=again: ask(e, LONG).ids == right.ids and hits(a_node) > 0, 20, f"{fault}: blocks again")
            expect(time.monotonic() - started < 60, "too long")
            for daemon in (edge, again, a_node):
                daemon.stop()
            shutil.rmtree(folder)


if __name__ == "__main__":
    if not os.path.exists(SERVER):
        print(f"SKIPPED: no {SERVER} (Debian package redis-tools)")
        sys.exit(SKIPPED)
    main([test_second_node_takes_what_the_first_computed, test_a_drained_node_leaves_what_it_computed,
          test_broken_blocks_are_refused_and_computed, test_tenants_and_secrets_do_not_meet,
          test_public_prompt_is_shared_by_tenants, test_redis_gone_and_back_under_load_changes_no_token,
          test_any_fault_at_any_step_costs_no_token_and_passes, test_a_node_killed_while_it_gives_leaves_nothing_half,
          test_any_fault_of_a_file_costs_no_token_and_passes])
