#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rows of the fault table whose fault is the link: packets that pass one way alone, come and go, or come changed.

    tests/chaos/rows_link.py ROW SEED

The daemons stand in two network namespaces with a relay between them (tests/integration/link.py), so each row is a
program of its own, which `row` runs for the table.
"""
import random
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
from bed import Bed, ask  # noqa: E402
import link  # noqa: E402
from harness import expect, request, wait_until  # noqa: E402

RTT_MS = 20
OPEN_MS, RECONNECT_MS, PATIENCE_MS = 2000, 4000, 1000
KEEPALIVE_S = 20  # a ping after 10 s without a word, and 10 s for its answer (protocol/rpc/rpc.h)
NO_END = {"logit_bias": {"1": -100, "2": -100}}
CLOUD_PORT, OPS_PORT = 7443, 9443


def row(function):
    """The table's proof for a function of this file."""
    def proof(rng):
        done = subprocess.run([sys.executable, __file__, function.__name__, str(rng.getrandbits(32))],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        sys.stderr.write(done.stderr)
        if done.returncode != 0:
            raise AssertionError(done.stdout.strip() or f"ended with {done.returncode}")
        return done.stdout.strip()

    proof.__name__, proof.__module__ = function.__name__, "rows_link"
    return proof


class FarBed(Bed):
    """The node stands at the far end of a link; its metrics can be asked for over it."""

    def __init__(self, between, seed, **edge):
        self.between = between
        between.set(RTT_MS, seed=seed)
        super().__init__(cloud={"listen__address": f"{link.FAR}:{CLOUD_PORT}", "http__address": f"{link.FAR}:{OPS_PORT}",
                                "http__hosts": link.FAR},
                         edge={"coop__open_ms": OPEN_MS, "coop__reconnect_ms": RECONNECT_MS,
                               "assist__patience_ms": PATIENCE_MS, **edge}, place=between.place)
        self.shown = self.shown_tokens()
        self.n_ids = 0
        self.lock = threading.Lock()

    def ask(self, mode, n=16, **fields):
        """An answer, or what came of it; its tokens are counted as an app sees them."""
        answer = ask(self.edge, mode, n, **fields)
        with self.lock:
            self.n_ids += len(answer.ids)
        if answer.error is None:
            tiers = answer.usage["shoal"]["tiers"]
            expect(sum(tiers.values()) == answer.usage["completion_tokens"] == len(answer.ids),
                   f"{len(answer.ids)} tokens came, and are counted as {answer.usage}")
        else:
            expect(answer.error["message"], "an error without words")
        return answer

    def shown_tokens(self):
        return sum(self.metric(self.edge.address, "shoal_tokens_total"))

    def running(self):
        return sum(self.metric(f"http://{link.FAR}:{OPS_PORT}", "shoal_requests_running"))

    @staticmethod
    def metric(url, name):
        lines = request(url, "GET", "/metrics", timeout=10)[2].decode().splitlines()
        return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{"))]

    def check(self, seconds=20):
        """Besides: what the edge has charged is what apps have seen, and the node keeps no session of what was cut."""
        super().check(seconds)
        self.n_ids += len(self.right)  # that answer's
        wait_until(lambda: self.shown_tokens() - self.shown == self.n_ids, 5,
                   f"{self.n_ids} tokens were shown, {self.shown_tokens() - self.shown} are counted: that they are equal")
        wait_until(lambda: self.running() == 0, KEEPALIVE_S + 5, "a node without sessions")


class Asked:
    """An answer on a thread of its own; at its `at`-th token something happens."""

    def __init__(self, bed, mode, n, at=0, then=None):
        self.answer, self.failure, self.seconds = None, None, 0.0
        self.then, self.at = then, at
        self.thread = threading.Thread(target=self.run, args=(bed, mode, n))
        self.thread.start()

    def see(self, answer):
        if self.then and len(answer.ids) >= self.at:
            then, self.then = self.then, None
            then()

    def run(self, bed, mode, n):
        started = time.monotonic()
        try:
            self.answer = bed.ask(mode, n, timeout=60, on_event=self.see, **NO_END)
        except Exception as error:  # noqa: BLE001 - told by wait
            self.failure = error
        self.seconds = time.monotonic() - started

    def wait(self, what):
        self.thread.join(90)
        expect(not self.thread.is_alive(), f"{what}: it hangs")
        expect(self.failure is None, f"{what}: {self.failure}")
        return self.answer


def timed(function):
    started = time.monotonic()
    return function(), time.monotonic() - started


def one_way(rng, way):
    """The way is cut under a stream for a moment: the stream goes on where it was. It is cut for long: what needs the cloud
    ends with words in time, what does not is served meanwhile, and all is as before when the way is open again."""
    seed = rng.getrandbits(32)
    with link.Link() as between, FarBed(between, seed) as bed:
        n = 300
        right = bed.ask("cloud", n, **NO_END).ids
        mode = {"up": "exact", "down": "cloud"}[way]  # of a stream that speaks on that way all the time
        at = rng.randrange(5, 40)
        stream = Asked(bed, mode, n, at, lambda: between.block(way))
        wait_until(lambda: between.counts()[way]["blocked"] > 0 or stream.answer, 20, "a packet that is lost")
        time.sleep(rng.uniform(0.5, 1.5))
        between.block()
        answer = stream.wait(f"{mode} under a short cut")
        expect(answer.error is None and answer.ids == right, f"{mode}, cut at {at}: {answer.error or 'other tokens'}")

        stream = Asked(bed, mode, n, at, lambda: between.block(way))
        wait_until(lambda: stream.then is None, 20, "the second cut")
        fresh = Asked(bed, "exact", 16)
        local, local_s = timed(lambda: bed.ask("local"))
        expect(local.error is None and local_s < 5, f"local: {local.error}, {local_s:.1f} s")
        assist, assist_s = timed(lambda: bed.ask("assist"))
        expect(assist.error is None and assist_s < 5 + PATIENCE_MS / 1e3, f"assist: {assist.error}, {assist_s:.1f} s")
        refused = fresh.wait("a request while the way is cut")
        most = (OPEN_MS + RECONNECT_MS) / 1e3 + 4
        expect(refused.error is not None and fresh.seconds < most, f"{refused.ids} after {fresh.seconds:.1f} s")
        answer = stream.wait("a stream while the way is cut")
        expect(answer.ids == right[:len(answer.ids)], f"{mode}: other tokens: {answer.ids}")
        expect(answer.error or len(answer.ids) == n, f"{mode}: cut without a word after {len(answer.ids)}")
        expect(stream.seconds < KEEPALIVE_S + most, f"{mode}: {stream.seconds:.1f} s for an end")
        between.block()
        healed = time.monotonic()
        wait_until(lambda: bed.ask("exact").error is None, 20, "the cloud's return")
        healed = time.monotonic() - healed
        bed.check()
        lost = between.counts()[way]["blocked"]
        return (f"{way}: a stream went on; cut for good, another ended {'whole' if not answer.error else 'with words'} after "
                f"{stream.seconds:.1f} s, a request was refused after {fresh.seconds:.1f} s, assist took {assist_s:.1f} s; "
                f"served {healed:.1f} s after it was open; {lost} packets lost")


def up_cut(rng):
    return one_way(rng, "up")


def down_cut(rng):
    return one_way(rng, "down")


def flapping(rng):
    """Both ways go and come every 2 s under answers of all modes: each is whole, and right where it is the cloud's word."""
    period_s, n_periods = 2, 5
    with link.Link() as between, FarBed(between, rng.getrandbits(32), coop__reconnect_ms=20000) as bed:
        right = bed.ask("cloud", 100, **NO_END).ids
        stop = threading.Event()
        counts, failures = {"exact": 0, "cloud": 0, "assist": 0}, []

        def client(mode):
            while not stop.is_set() and not failures:
                try:
                    answer = bed.ask(mode, 100, timeout=60, **NO_END)
                    expect(answer.error is None, f"{mode}: {answer.error}")
                    expect(len(answer.ids) == 100 and (mode == "assist" or answer.ids == right), f"{mode}: other tokens")
                    counts[mode] += 1
                    time.sleep(0.05)
                except Exception as error:  # noqa: BLE001 - told below
                    failures.append(error)

        clients = [threading.Thread(target=client, args=(mode,)) for mode in counts]
        for thread in clients:
            thread.start()
        for _ in range(n_periods):
            time.sleep(period_s)
            between.block(*link.WAYS)
            time.sleep(period_s)
            between.block()
        stop.set()
        for thread in clients:
            thread.join(90)
        expect(not any(thread.is_alive() for thread in clients), "an answer hangs")
        expect(not failures, f"{failures[:1]}")
        expect(min(counts.values()) > 0, f"answers: {counts}")
        lost = between.counts()
        expect(all(lost[way]["blocked"] > 0 for way in link.WAYS), f"nothing was lost: {lost}")
        bed.check()
        reconnects = sum(bed.metric(bed.edge.address, "shoal_link_reconnects_total"))
        return (f"{n_periods} times {period_s} s without a link: {counts} answers, all whole, {reconnects:.0f} streams opened "
                f"again, {sum(lost[way]['blocked'] for way in link.WAYS)} packets lost")


def bits(rng):
    """Packets with flipped bits: the checksums of IP and TCP find them, and no token differs."""
    share = 0.05
    with link.Link() as between, FarBed(between, rng.getrandbits(32), coop__reconnect_ms=20000) as bed:
        right = bed.ask("cloud", 60, **NO_END).ids
        between.damage(share)
        n = 0
        started = time.monotonic()
        while n < 8 or min(way["damaged"] for way in between.counts().values()) < 10:
            for mode in ("exact", "cloud"):
                answer = bed.ask(mode, 60, timeout=60, **NO_END)
                expect(answer.error is None and answer.ids == right, f"{mode}: {answer.error or 'other tokens'}")
                n += 1
            expect(time.monotonic() - started < 40, f"{n} answers: {between.counts()}")
        counts = between.counts()
        between.damage(0)
        wrong = link.tcp_count("InCsumErrors")
        expect(wrong > 0, "TCP has seen no wrong checksum: nothing was flipped in a segment")
        expect(between.sent_again() > 0, "no segment was sent again")
        bed.check()
        return (f"{counts['up']['damaged']} packets up and {counts['down']['damaged']} down with flipped bits, "
                f"{wrong} of them with a wrong checksum of TCP here; {n} answers, all right")


def seen_by_tls(rng):
    """A bit of a segment's data flipped and the checksum made right: TLS ends that connection, and no token differs."""
    n_each = 4
    with link.Link() as between, FarBed(between, rng.getrandbits(32), coop__reconnect_ms=20000) as bed:
        n = 200
        right = bed.ask("cloud", n, **NO_END).ids
        for i in range(n_each):
            for way, mode in (("up", "exact"), ("down", "cloud"), ("down", "exact")):
                before, forged = link.connections(CLOUD_PORT), between.counts()[way]["forged"]
                stream = Asked(bed, mode, n, rng.randrange(3, 40), lambda: between.forge(way))  # noqa: B023
                answer = stream.wait(f"{mode}, forged {way}")
                expect(answer.error is None and answer.ids == right,
                       f"{mode}, forged {way} {i}: {answer.error or 'other tokens'}")
                wait_until(lambda: between.counts()[way]["forged"] > forged, 20, "a forged segment")  # noqa: B023
                wait_until(lambda: link.connections(CLOUD_PORT) and not link.connections(CLOUD_PORT) & before,  # noqa: B023
                           KEEPALIVE_S, "another connection in the place of the one that TLS ended")
        counts = between.counts()
        bed.check()
        reconnects = sum(bed.metric(bed.edge.address, "shoal_link_reconnects_total"))
        return (f"{counts['up']['forged']} segments up and {counts['down']['forged']} down changed behind TCP's back, each cost "
                f"its connection; {3 * n_each} answers of {n} tokens, {reconnects:.0f} streams opened again, none wrong")


ROWS = {function.__name__: function for function in (up_cut, down_cut, flapping, bits, seen_by_tls)}

if __name__ == "__main__":
    link.enter()
    try:
        print(ROWS[sys.argv[1]](random.Random(int(sys.argv[2]))))
    except AssertionError as problem:
        print(problem)
        raise
