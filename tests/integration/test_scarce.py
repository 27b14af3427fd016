#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out in whole daemons: the n-th allocation fails while they load, answer, stream and end.

Each time: no crash, no hang, the right tokens or an error that says why, the next request served right, status 0 at the
end. Which n: the first ones and a sample from a seed; all of them with SHOAL_TEST_EVERY=1 (integration_scarce_long).
What fails and what is let through: tests/support/scarce.c.
"""
import http.client
import json
import mmap
import os
import random
import signal
import struct
import sys
import threading

from harness import BIN, FAMILY_EOS, SKIPPED, Judge, Site, complete, expect, main, questions, request, wait_until

SEED = int(os.environ.get("SHOAL_TEST_SEED", "20261129"))
EVERY = bool(os.environ.get("SHOAL_TEST_EVERY"))
LIBRARY = os.path.join(os.path.dirname(BIN), "tests", "libshoal-scarce.so")
NEVER = 1 << 62
HANG_S = 60
QUESTION = "What does H40 mean on the Tapir 10?"


class Scarce:
    """The counters of one daemon; see tests/support/scarce.c."""

    WAIT, LEFT, COUNT, FAILED, WHERE = range(5)

    def __init__(self, site, daemon):
        path = site.file(f"scarce-{id(daemon)}")
        with open(path, "wb") as f:
            f.write(bytes(40))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 40)
        daemon.prefix = ["env", f"LD_PRELOAD={LIBRARY}", f"SHOAL_SCARCE={path}"]

    def get(self, i):
        return struct.unpack_from("q", self.map, 8 * i)[0]

    def put(self, i, value):
        struct.pack_into("q", self.map, 8 * i, value)

    def fail(self, n, times):
        """The next allocation but n fails, and as many after it as times says."""
        self.put(self.LEFT, 0)
        self.put(self.FAILED, 0)
        self.put(self.WAIT, n)
        self.put(self.LEFT, times)

    def enough(self):
        """Nothing fails any more; how many did."""
        self.put(self.LEFT, 0)
        return self.get(self.FAILED)

    def where(self):
        return f"allocation from {self.get(self.WHERE):#x}"


def sample(n, n_first, n_more, what):
    """Which of n allocations fail: all, or the first and some of the others."""
    if EVERY or n <= n_first + n_more:
        return list(range(n))
    rng = random.Random(f"{SEED} {what}")
    return list(range(n_first)) + sorted(rng.sample(range(n_first, n), n_more))


def begin(daemon):
    """Starts it; a daemon that hangs is ended and shows as one that a signal ended."""
    timer = threading.Timer(HANG_S, lambda: daemon.process and daemon.process.kill())
    timer.start()
    try:
        daemon.start()
        return True
    except AssertionError as error:
        if "did not start" not in str(error):
            raise
        return False
    finally:
        timer.cancel()


def chat(mode, **fields):
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0, "seed": 1,
            "logit_bias": {str(FAMILY_EOS): -100}, "shoal": {"mode": mode}}
    body.update(fields)
    return json.dumps(body)


def attempt(url, method, path, body, seconds=HANG_S):
    """(status, body) of a request, or (0, why) when its connection was ended: no memory even for an error."""
    try:
        status, _, reply = request(url, method, path, body, {"Content-Type": "application/json"}, timeout=seconds)
        return status, reply
    except TimeoutError:
        raise AssertionError(f"{method} {path} hangs") from None
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)


def judge(status, reply, right, what):
    """The answer as it would be, or an error that says why, or an ended connection; True for the first."""
    if status == 200 and (right is None or said(reply) == right):
        return True
    if status == 0:
        return False
    expect(status != 200, f"{what}: another answer: {reply[:400]}")
    error = json.loads(reply)["error"]
    expect(status in (429, 500, 503) and "memory" in error["message"], f"{what}: {status} {error}")
    return False


def said(reply):
    message = json.loads(reply)["choices"][0]
    return message.get("message", {}).get("content") or message.get("text")


def each(daemon, scarce, one, after, n_first, n_more, what, many=50):
    """one(n) with the n-th allocation failing, once and then many in a row; after() with enough memory again."""
    counted = scarce.get(scarce.COUNT)
    scarce.fail(NEVER, 0)
    one("with enough memory")
    n = scarce.get(scarce.COUNT) - counted
    n_failed = n_refused = 0
    for at in sample(n, n_first, n_more, what):
        for times in (1, many):
            scarce.fail(at, times)
            name = f"{what}: {times} from allocation {at} of {n}, seed {SEED}"
            try:
                n_refused += not one(name)
                n_failed += scarce.enough() > 0
                expect(daemon.process.poll() is None, f"ended with {daemon.process.poll()}")
                after(name)
            except AssertionError as error:
                raise AssertionError(f"{name}, {scarce.where()}: {error}\n{daemon.tail()}") from None
    expect(n_failed > 0, f"{what}: nothing failed")
    return f"{what}: {n} allocations, {n_failed} times some failed, {n_refused} refused"


def load(kind):
    """The daemon starts, or ends with status 1 and a line that says why."""
    with Site() as site:
        full, small = site.models()
        make = (lambda: site.edge(small)) if kind == "edge" else (lambda: site.cloud(full))
        first = make()
        scarce = Scarce(site, first)
        first.start()
        n = scarce.get(scarce.COUNT)
        first.stop()
        n_started = 0
        for at in (chosen := sample(n, 12, 20, f"load {kind}")):
            daemon = make()
            site.daemons.remove(daemon)  # judged here
            scarce = Scarce(site, daemon)
            scarce.fail(at, 1)
            started, name = begin(daemon), f"{kind}: allocation {at} of {n} at start, seed {SEED}, {scarce.where()}"
            if started:
                n_started += 1
                if kind == "edge":
                    status, reply = attempt(daemon.address, "POST", "/v1/chat/completions", chat("local"))
                    expect(status == 200, f"{name}: it started but does not answer: {status} {reply}")
                daemon.stop()
            else:
                daemon.process.stdout.close()
                daemon.stderr.close()
                expect(daemon.process.returncode == 1 and "memory" in daemon.tail(),
                       f"{name}: ended with {daemon.process.returncode}: {daemon.tail()}")
        return f"{n} allocations, {len(chosen)} failed one at a time, {n_started} starts went on"


def test_edge_loads_or_says_why():
    return load("edge")


def test_cloud_loads_or_says_why():
    return load("cloud")


def edge_alone(site, **settings):
    _, small = site.models()
    daemon = site.edge(small, **settings)
    scarce = Scarce(site, daemon)
    daemon.start()
    return daemon, scarce


SCHEMA = {"type": "object", "properties": {"part": {"type": "string", "maxLength": 8}, "n": {"type": "integer"}},
          "required": ["part", "n"], "additionalProperties": False}
REQUESTS = [
    ("a chat", "POST", "/v1/chat/completions", chat("local")),
    ("a completion", "POST", "/v1/completions", json.dumps({
        "prompt": "The pump", "max_tokens": 8, "temperature": 0, "stop": ["\n\n"], "logprobs": 2, "shoal": {"mode": "local"}})),
    ("a schema", "POST", "/v1/chat/completions", chat("local", logit_bias={}, response_format={
        "type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})),
    ("a kept session", "POST", "/v1/chat/completions", chat("local", shoal={"mode": "local", "session": "pump-7"})),
    ("a session saved", "GET", "/v1/shoal/sessions/pump-7", None),
    ("status", "GET", "/v1/shoal/status", None),
    ("models", "GET", "/v1/models", None),
    ("metrics", "GET", "/metrics", None),
]


def test_edge_requests_are_served_or_refused():
    with Site() as site:
        daemon, scarce = edge_alone(site)
        notes = []
        for what, method, path, body in REQUESTS:
            status, reply = attempt(daemon.address, method, path, body)
            expect(status == 200, f"{what}: {status} {reply[:300]}")
            right = said(reply) if method == "POST" else None

            def one(name):
                return judge(*attempt(daemon.address, method, path, body), right, name)  # noqa: B023

            def after(name):
                if path.startswith("/v1/shoal/sessions/"):  # noqa: B023
                    attempt(daemon.address, "POST", "/v1/chat/completions", REQUESTS[3][3])
                expect(one(name), "the next request was refused too")  # noqa: B023

            notes.append(each(daemon, scarce, one, after, 12, 10, what))
        return "; ".join(notes)


class Pair:
    """A node and an edge, one of them with memory that runs out."""

    def __init__(self, site, scarce_side, mode="exact"):
        full, small = site.models()
        self.cloud, self.mode = site.cloud(full), mode
        scarce = Scarce(site, self.cloud) if scarce_side == "cloud" else None
        self.cloud.start()
        self.judge = Judge(site, full, small) if mode == "assist" else None
        settings = {"assist__rate": 0.7, "assist__span_tokens": 2} if self.judge else {}
        self.edge = site.edge(small, self.cloud.address, coop__reconnect_ms=5000, **settings)
        self.scarce = scarce or Scarce(site, self.edge)
        self.edge.start()
        self.side = self.cloud if scarce else self.edge
        self.judged, self.tiers, self.ids = set(), [], None
        if self.judge:  # a question that both of them answer
            self.ids = next(ids for ids in map(self.judge.ids, questions(60, SEED)) if self.both(ids))
        self.right = self.ask().ids
        expect(self.judge or len(self.right) == 24, f"{self.right}")
        self.ask()

    def both(self, ids):
        self.ids = ids
        return set(self.ask().tiers) == {"edge", "cloud"}

    def ask(self, **fields):
        """In mode assist the prompt is given as ids, which the judge needs."""
        return complete(self.edge.address, self.ids or QUESTION, self.mode, chat=not self.judge, temperature=0, timeout=HANG_S,
                        **({} if self.judge else {"logit_bias": {str(FAMILY_EOS): -100}}), **fields)

    def check(self, answer):
        """The tokens that were said: in mode assist each is what its tier says there, who of the two it was."""
        if not self.judge:
            expect(answer.ids == self.right[:len(answer.ids)], f"other tokens: {answer.ids}, right is {self.right}")
        elif answer.ids and (tuple(answer.ids), tuple(answer.tiers)) not in self.judged:
            self.judge.check(self.ids, answer, "assist")
            self.judged.add((tuple(answer.ids), tuple(answer.tiers)))

    def one(self, name):
        try:
            answer = self.ask()
        except TimeoutError:
            raise AssertionError(f"{name}: the stream hangs") from None
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return False  # its connection was ended
        except AssertionError as error:
            expect("without [DONE]" in str(error), error)
            return False
        self.tiers = answer.tiers
        self.check(answer)
        if answer.error is None:
            expect(answer.finish == "stop" and self.judge or len(answer.ids) == 24, f"cut without a word: {answer.ids}")
            return True
        expect(answer.error["message"], f"{answer.error}")
        return False

    def after(self, name):
        expect(self.one(name), "the next stream was refused too")
        if self.judge:  # whose edge leaves the cloud alone for a time
            wait_until(lambda: "cloud" in self.tiers or (self.one(name) and "cloud" in self.tiers), 40, "the cloud's return")


def stream(side, mode):
    with Site() as site:
        pair = Pair(site, side, mode)
        # The edge tries again with pauses that double: many failures of the node take it seconds each time.
        n_first, n_more, many = (8, 12, 50) if side == "edge" else (6, 8, 3)
        return each(pair.side, pair.scarce, pair.one, pair.after, n_first, n_more, f"mode {mode}, {side}", many)


def test_edge_streams_go_on_or_say_why():
    return stream("edge", "exact") + "; " + stream("edge", "assist")


def test_cloud_streams_go_on_or_say_why():
    return stream("cloud", "exact") + "; " + stream("cloud", "cloud") + "; " + stream("cloud", "assist")


def stream_to_the_end(pair, failures):
    """A long answer that SIGTERM meets: what comes of it is right."""
    try:
        answer = pair.ask(n=300)
        expect(answer.ids[:24] == pair.right[:len(answer.ids)], f"other tokens: {answer.ids[:24]}")
        expect(answer.error or len(answer.ids) == 300, f"cut without a word after {len(answer.ids)}")
    except (OSError, http.client.HTTPException, json.JSONDecodeError):
        pass  # its connection was ended
    except AssertionError as error:
        if "without [DONE]" not in str(error):
            failures.append(error)


def end(side):
    """SIGTERM under a stream: status 0 whatever fails on the way out; Daemon.stop judges it."""
    n_failed, at, quiet, n_ends = 0, 0, 0, 0
    while quiet < 2 and n_ends < (10000 if EVERY else 8):  # until nothing more is allocated on the way out
        with Site() as site:
            pair = Pair(site, side)
            failures = []
            asking = threading.Thread(target=stream_to_the_end, args=(pair, failures))
            counted = pair.scarce.get(pair.scarce.COUNT)
            asking.start()
            wait_until(lambda: pair.scarce.get(pair.scarce.COUNT) > counted + 40, 20, "a stream")  # noqa: B023
            pair.scarce.fail(at, 1)
            pair.side.stop(HANG_S)
            failed = pair.scarce.enough() > 0
            asking.join(HANG_S)
            expect(not asking.is_alive(), f"allocation {at} after SIGTERM: a stream hangs")
            expect(not failures, f"allocation {at} after SIGTERM: {failures}")
            n_failed, quiet, n_ends = n_failed + failed, 0 if failed else quiet + 1, n_ends + 1
        at = at + 1 if EVERY else 2 * at + 1
    expect(n_failed > 0, "nothing failed on the way out")
    return f"{side}: {n_ends} ends, {n_failed} with an allocation failing"


def test_edge_ends_without_memory():
    return end("edge")


def test_cloud_ends_without_memory():
    return end("cloud")


def test_edge_reloads_or_keeps_what_it_had():
    with Site() as site:
        daemon, scarce = edge_alone(site)
        right = said(attempt(daemon.address, "POST", "/v1/chat/completions", chat("local"))[1])

        def n_lines():
            with open(daemon.log, encoding="utf-8") as f:
                return f.read().count("reload")

        def one(name):
            before = n_lines()
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: n_lines() > before, 10, "a line about the reload")
            return True

        def after(name):
            status, reply = attempt(daemon.address, "POST", "/v1/chat/completions", chat("local"))
            expect(status == 200 and said(reply) == right, f"after a reload: {status} {reply[:200]}")

        return each(daemon, scarce, one, after, 12, 10, "SIGHUP")


if __name__ == "__main__":
    if not os.path.exists(LIBRARY):
        print(f"skipped: {LIBRARY} is not built")
        sys.exit(SKIPPED)
    main([test_edge_loads_or_says_why, test_cloud_loads_or_says_why, test_edge_requests_are_served_or_refused,
          test_edge_streams_go_on_or_say_why, test_cloud_streams_go_on_or_say_why, test_edge_ends_without_memory,
          test_cloud_ends_without_memory, test_edge_reloads_or_keeps_what_it_had])
