#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Signed bundles: made by the forge, served by the cloud, fetched, checked, swapped in and given up by the edge."""
import itertools
import json
import os
import random
import signal
import threading
import time

from harness import FAMILY, Site, binary, complete, expect, main, request, run
from harness import wait_until as wait_shortly
from test_fetch import Relay

PROMPT = [3 + i * 7 % 240 for i in range(20)]
EDGE = "spiffe://shoal.dev/edge/dev"


def wait_until(check, what):
    """A bundle is synced to the disk again and again on its way, and a disk may be busy."""
    wait_shortly(check, seconds=120, what=what)


def metric(url, name, label=""):
    text = request(url, "GET", "/metrics")[2].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name) and label in line)


def status(edge):
    return json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])


def serial(edge):
    return status(edge)["bundle"]["serial"]


def trouble(edge):
    return status(edge)["bundle"]["trouble"] or ""


def ask(edge, prompt=None, n=12, mode="local", **fields):
    return complete(edge.address, prompt or PROMPT, mode, n=n, temperature=0, **fields)


class Fleet:
    """A maker's key and a cloud's folder of bundles."""

    def __init__(self, site):
        self.site, self.folder = site, site.file("fleet")
        os.mkdir(self.folder)
        for name in ("maker", "other"):
            run("openssl", "genpkey", "-algorithm", "ed25519", "-out", site.file(f"{name}.key"))
            run("openssl", "pkey", "-in", site.file(f"{name}.key"), "-pubout", "-out", site.file(f"{name}.pem"))
        self.roll()
        self.cloud = None

    def path(self, number, *names):
        return os.path.join(self.folder, str(number), *names)

    def make(self, number, model, *options, key="maker"):
        run(binary("shoal-forge"), "bundle", "-m", model, "-o", self.path(number), "--serial", str(number), "--key",
            self.site.file(f"{key}.key"), "--answer", "8", *options)

    def sign_again(self, number, manifest):
        """Another manifest, signed by the maker, with openssl alone."""
        with open(self.path(number, "manifest"), "w", encoding="ascii") as f:
            f.write(manifest)
        run("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", self.site.file("maker.key"), "-in",
            self.path(number, "manifest"), "-out", self.path(number, "manifest.sig"))

    def manifest(self, number):
        with open(self.path(number, "manifest"), encoding="ascii") as f:
            return f.read()

    def roll(self, *lines):
        with open(os.path.join(self.folder, "rollout"), "w", encoding="ascii") as f:
            f.write("# who has what\n" + "".join(line + "\n" for line in lines))

    def serve(self, model, **settings):
        self.cloud = self.site.cloud(model, fleet__folder=self.folder, http__address="127.0.0.1:0", **settings).start()
        line = self.cloud.process.stdout.readline()
        expect(line.startswith("http: "), line)
        self.cloud.http = line[6:].strip()
        return self.cloud

    def reload(self):
        before = metric(self.cloud.http, "shoal_config_reloads_total")
        self.cloud.process.send_signal(signal.SIGHUP)
        wait_until(lambda: metric(self.cloud.http, "shoal_config_reloads_total") > before, what="the reload")

    def edge(self, model, address=None, folder="state", **settings):
        base = {"bundle__folder": self.site.file(folder), "bundle__trust": self.site.file("maker.pem"), "bundle__poll_s": 1,
                "mode__default": "local"}
        return self.site.edge(model, address or self.cloud.address, **{**base, **settings})


def test_forge_makes_what_openssl_and_the_forge_believe():
    with Site() as site:
        fleet = Fleet(site)
        model = site.tiny_model(1)
        fleet.make(7, model, "--family", "minnow", "--version", "2026.11", "--adapter", site.tiny_lora(3, model))
        run("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", site.file("maker.pem"), "-in",
            fleet.path(7, "manifest"), "-sigfile", fleet.path(7, "manifest.sig"))
        check = [binary("shoal-forge"), "bundle-check", "-b", fleet.path(7), "--json"]
        seen = json.loads(run(*check, "--trust", site.file("maker.pem")).stdout)
        expect(seen["serial"] == 7 and seen["family"] == "minnow" and seen["signature"] == "trusted", seen)
        expect([f["role"] for f in seen["files"]] == ["model", "adapter"], seen)
        done = run(*check, "--trust", site.file("other.pem"), check=False)
        expect(done.returncode == 1 and "none of the 1 keys" in done.stderr, done.stderr)
        name = fleet.path(7, seen["files"][0]["name"])
        with open(name, "r+b") as f:  # one bit of a weight
            f.seek(-9, os.SEEK_END)
            byte = f.read(1)
            f.seek(-9, os.SEEK_END)
            f.write(bytes([byte[0] ^ 1]))
        done = run(*check, "--trust", site.file("maker.pem"), check=False)
        expect(done.returncode == 1 and "is not what was signed" in done.stderr, done.stderr)
        done = run(binary("shoal-forge"), "bundle", "-m", model, "-o", fleet.path(7), "--serial", "8", check=False)
        expect(done.returncode == 1 and "is there already" in done.stderr, done.stderr)


def test_swap_between_requests_loses_none():
    with Site() as site:
        fleet = Fleet(site)
        old, new = site.tiny_model(1), site.tiny_model(2)
        alone = {m: ask(site.edge(m).start()) for m in (old, new)}
        expect(alone[old].ids != alone[new].ids, "two models that say the same")
        cloud = fleet.serve(old)
        edge = fleet.edge(old).start()
        expect(serial(edge) == 0, status(edge))
        stop = threading.Event()
        seen = []

        def keep_asking():
            while not stop.is_set():
                answer = ask(edge)
                expect(answer.error is None, answer.error)
                seen.append(answer.ids)

        threads = [threading.Thread(target=keep_asking) for _ in range(3)]
        for t in threads:
            t.start()
        try:
            fleet.make(1, new)
            fleet.roll("1 100")
            fleet.reload()
            wait_until(lambda: serial(edge) == 1 and seen and seen[-1] == alone[new].ids, what="the new model")
            n = len(seen)
            wait_until(lambda: len(seen) > n + 30, what="answers after it")
        finally:
            stop.set()
            for t in threads:
                t.join()
        expect(all(ids in (alone[old].ids, alone[new].ids) for ids in seen), "an answer of neither model")
        expect(seen[0] == alone[old].ids and seen[-1] == alone[new].ids, "no swap under way")
        at = status(edge)
        expect(at["model"]["id"] == "edge" and at["totals"]["requests"] == len(seen), at["totals"])
        wait_until(lambda: status(edge)["totals"]["tokens"]["edge"] == 12 * len(seen), what="all tokens counted")
        expect(metric(edge.address, "shoal_bundle_serial") == 1, "shoal_bundle_serial")
        expect(metric(edge.address, "shoal_bundle_changes_total", '"taken"') == 1, "taken")
        wait_until(lambda: not status(edge)["bundle"]["trial"], what="the end of the trial")
        # What runs is what a restart finds, without a cloud.
        cloud.stop()
        edge.stop()
        edge.start()
        expect(serial(edge) == 1 and ask(edge).ids == alone[new].ids, "the bundle is not what the restart found")
        expect(not os.path.exists(site.file("state/incoming")), "something is still incoming")
        return f"{len(seen)} answers"


def test_killed_in_transfer_goes_on_where_it_was():
    with Site() as site:
        fleet = Fleet(site)
        model = site.tiny_model(1)
        fleet.make(1, model)
        size = os.path.getsize(model)
        fleet.roll(f"1 100 {EDGE}")
        cloud = fleet.serve(model)
        relay = Relay(cloud.address, size / 2)  # two seconds of it
        edge = fleet.edge(model, relay.address).start()
        part = site.file("state/incoming/" + os.path.basename(model))
        kills = 0
        for share in (0.2, 0.5):
            wait_until(lambda at=size * share: os.path.exists(part) and os.path.getsize(part) > at, what="a part of the file")
            edge.kill()
            kills += 1
            expect(0 < os.path.getsize(part) < size, "the transfer was over already")
            edge.start()
        wait_until(lambda: serial(edge) == 1, what="the bundle")
        def n_resumed():
            with open(edge.log, encoding="utf-8") as f:
                return f.read().count("goes on at byte=")
        wait_until(lambda: n_resumed() == kills, what=f"{kills} lines of what goes on")
        sent = metric(cloud.http, "shoal_fleet_sent_bytes_total")
        expect(sent < 2 * size, f"{sent} bytes were sent for {size}")
        expect(ask(edge).error is None, "no answer")
        return f"{size} bytes, {sent:.0f} sent"


def test_bad_bundles_are_given_up_for_good():
    with Site() as site:
        fleet = Fleet(site)
        model, other = site.tiny_model(1), site.tiny_model(2)
        fleet.serve(model)
        edge = fleet.edge(model).start()
        right = ask(edge).ids

        def offer(number, words):
            fleet.roll(f"{number} 100")
            fleet.reload()
            wait_until(lambda: words in trouble(edge), what=f"{words!r} of bundle {number}: {status(edge)['bundle']}")
            expect(serial(edge) == 0 and ask(edge).ids == right, "a bad bundle is in use")

        fleet.make(1, other, key="other")
        offer(1, "signed by none")
        fleet.make(2, other, "--family", "perch")
        fleet.roll("2 100")
        fleet.reload()
        wait_until(lambda: metric(fleet.cloud.http, "shoal_fleet_answers_total", '"none"') > 0, what="another family's answer")
        fleet.make(3, other, "--program", "99.0.0")
        offer(3, "needs shoal-edge 99.0.0")
        fleet.make(4, other)
        name = fleet.path(4, os.path.basename(other))
        with open(name, "r+b") as f:
            f.seek(1000)
            f.write(b"not what was signed")
        offer(4, "is not what was signed")
        # Signed, whole, and not what its maker says it answers.
        fleet.make(5, other)
        lines = fleet.manifest(5).rstrip("\n").rsplit(" ", 1)
        fleet.sign_again(5, f"{lines[0]} {','.join('7' for _ in lines[1].split(','))}\n")
        offer(5, "answered otherwise")
        wait_until(lambda: status(edge)["bundle"]["failed"] == 5, what="the fifth given up")
        # Signed, whole, and no model.
        fleet.make(6, other)
        garbage = fleet.path(6, os.path.basename(other))
        with open(garbage, "wb") as f:
            f.write(b"GGUF" + random.Random(1).randbytes(4096))
        digest = run("sha256sum", garbage).stdout.split()[0]
        text = [f"file model {os.path.basename(other)} 4100 {digest}" if line.startswith("file") else line
                for line in fleet.manifest(6).splitlines()]
        fleet.sign_again(6, "\n".join(text) + "\n")
        offer(6, "")
        wait_until(lambda: status(edge)["bundle"]["failed"] == 6, what="the sixth given up")
        # What failed is not tried again, by a restart neither, and neither is what is older.
        failed = metric(edge.address, "shoal_bundle_changes_total", '"failed"')
        asks = metric(edge.address, "shoal_bundle_asks_total")
        fleet.make(0x10, other)
        fleet.roll("6 100", "5 100")
        fleet.reload()
        wait_until(lambda: metric(edge.address, "shoal_bundle_asks_total") >= asks + 2, what="two more questions")
        expect(metric(edge.address, "shoal_bundle_changes_total", '"failed"') == failed == 2, f"{failed} failed")
        edge.stop()
        edge.start()
        expect(status(edge)["bundle"]["highest"] == 6 and ask(edge).ids == right, status(edge)["bundle"])
        fleet.roll("16 100", "6 100")
        fleet.reload()
        wait_until(lambda: serial(edge) == 16, what="a good one after all")


def test_failing_answers_bring_the_one_before_back():
    with Site() as site:
        fleet = Fleet(site)
        # The family under sanitizers too: random models share a tokenizer, and would do for `exact`.
        full, edge_model = (os.path.join(FAMILY, f"minnow-{name}.gguf") for name in ("full", "edge"))
        strange = site.tiny_model(9)
        fleet.make(1, strange)
        fleet.serve(full)
        edge = fleet.edge(edge_model, mode__default="exact", bundle__trial_failures=2).start()
        right = ask(edge, "Once upon a time", mode="exact")
        expect(right.error is None, right.error)
        fleet.roll("1 100")
        fleet.reload()
        wait_until(lambda: serial(edge) == 1, what="the strange bundle")
        errors = [ask(edge, "Once upon a time", mode="exact").error for _ in range(2)]
        expect(all(errors), f"answers of a model that does not fit its cloud: {errors}")
        wait_until(lambda: serial(edge) == 0, what="the way back")
        again = ask(edge, "Once upon a time", mode="exact")
        expect(again.error is None and again.ids == right.ids, f"{again.error} {again.ids} {right.ids}")
        at = status(edge)["bundle"]
        expect(at["failed"] == 1 and at["highest"] == 1, at)
        expect(metric(edge.address, "shoal_bundle_changes_total", '"rolled_back"') == 1, "rolled_back")


def test_a_trial_counts_answers_of_its_own_bundle_alone():
    """Answers that the model before has under way when a bundle is swapped in end well, and win no trial of that bundle."""
    with Site() as site:
        fleet = Fleet(site)
        old, new = os.path.join(FAMILY, "minnow-full.gguf"), site.tiny_model(2)
        fleet.serve(old)
        edge = fleet.edge(old, bundle__trial_answers=3).start()
        long_one = {"n": 800, "logit_bias": {"1": -100, "2": -100}}
        right = ask(edge, "The pump", **long_one).ids
        begun, ended = [], []

        def ask_long():
            ended.append(ask(edge, "The pump", on_event=lambda answer: begun.append(1), **long_one))

        def trial():
            return status(edge)["bundle"]["trial"]

        end = time.monotonic() + 200
        for number in itertools.count(1):  # until the swap has met enough of them
            expect(time.monotonic() < end, "no swap met three answers under way")
            fleet.make(number, new if number % 2 else old)
            fleet.roll(f"{number} 100")
            del begun[:], ended[:]
            threads = [threading.Thread(target=ask_long) for _ in range(8)]
            fleet.reload()
            for t in threads:
                t.start()
            wait_until(lambda n=number: serial(edge) == n, what="the bundle")
            n_met = len(threads) - len(ended) if begun else 0
            for t in threads:
                t.join()
            expect(all(a.error is None for a in ended), [a.error for a in ended])
            if number % 2 and n_met >= 3 and all(a.ids == right for a in ended):
                break
            wait_until(lambda: ask(edge) and not trial(), what="the end of the trial")
        for n_own in range(3):
            expect(trial(), f"the trial is over after {n_own} answers of its own and {n_met} of the model before")
            expect(ask(edge).error is None, "no answer")
        wait_until(lambda: not trial(), what="the end of the trial")
        return f"{n_met} answers of the model before"


def test_rollout_decides_by_identity():
    with Site() as site:
        fleet = Fleet(site)
        model = site.tiny_model(1)
        fleet.make(1, model)
        fleet.make(2, model)
        fleet.roll("1 0", "2 0 spiffe://shoal.dev/*", "2 100")
        fleet.serve(model)
        edge = fleet.edge(model).start()
        wait_until(lambda: metric(edge.address, "shoal_bundle_asks_total") >= 2, what="two questions")
        expect(serial(edge) == 0 and not trouble(edge), status(edge)["bundle"])
        fleet.roll("1 0 spiffe://shoal.dev/cloud/*", "1 100 spiffe://shoal.dev/*", "2 0")
        fleet.reload()
        wait_until(lambda: serial(edge) == 1, what="the first bundle")
        # A rollout that cannot be read changes nothing, and says why.
        fleet.roll("1 100", "2 lots")
        before = metric(fleet.cloud.http, "shoal_config_reload_failures_total")
        fleet.cloud.process.send_signal(signal.SIGHUP)
        wait_until(lambda: metric(fleet.cloud.http, "shoal_config_reload_failures_total") > before, what="the refusal")
        fleet.cloud.says("rollout line 3")


def test_prefix_is_hit_and_adapter_is_used():
    with Site() as site:
        fleet = Fleet(site)
        model = site.tiny_model(1)
        lora = site.tiny_lora(5, model)
        system = [3 + i * 11 % 240 for i in range(100)]
        plain = site.edge(model).start()
        first = ask(plain, system, n=1, shoal={"mode": "local", "session": "system"})
        expect(first.error is None, first.error)
        with open(site.file("system.kv"), "wb") as f:
            f.write(request(plain.address, "GET", "/v1/shoal/sessions/system")[2])
        fleet.make(1, model, "--prefix", site.file("system.kv"))
        fleet.make(2, model, "--adapter", lora)
        fleet.roll("1 100")
        fleet.serve(model)
        edge = fleet.edge(model).start()
        wait_until(lambda: serial(edge) == 1, what="the bundle with a prefix")
        for more in ([9, 8, 7], [50, 51]):
            answer, right = ask(edge, system + more), ask(plain, system + more)
            expect(answer.ids == right.ids, "a prefix has changed an answer")
            expect(answer.usage["shoal"]["prefilled_tokens"] == len(system + more) - 96, answer.usage)
        expect(metric(edge.address, "shoal_prefix_reused_tokens_total") == 192, "reused")
        expect(ask(edge, [5] + system).usage["shoal"]["prefilled_tokens"] == 101, "a prompt that begins otherwise")
        # It is there at once after a restart, and does not stand in the way of who needs all KV.
        edge.stop()
        edge.start()
        expect(ask(edge, system + [4]).usage["shoal"]["prefilled_tokens"] == 101 - 96, "after a restart")
        before = ask(edge).ids
        fleet.roll("2 100")
        fleet.reload()
        wait_until(lambda: serial(edge) == 2, what="the bundle with an adapter")
        expect(ask(edge).ids != before, "the adapter changes nothing")
        done = run(binary("shoal-forge"), "generate", "-m", model, "--lora", lora, "-p", "abc", "-n", "8", "--json")
        right = json.loads(done.stdout)["ids"]
        expect(ask(edge, "abc", n=8).ids[:len(right)] == right, "other ids than the forge's")


if __name__ == "__main__":
    main([
        test_forge_makes_what_openssl_and_the_forge_believe, test_swap_between_requests_loses_none,
        test_killed_in_transfer_goes_on_where_it_was, test_bad_bundles_are_given_up_for_good,
        test_failing_answers_bring_the_one_before_back, test_a_trial_counts_answers_of_its_own_bundle_alone,
        test_rollout_decides_by_identity, test_prefix_is_hit_and_adapter_is_used,
    ])
