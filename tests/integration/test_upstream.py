#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A cloud whose model another engine serves: an edge asks a cloud, and the cloud asks a second shoal-edge,
which stands for any OpenAI-compatible engine. Between the two stands a proxy that breaks things on demand."""
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time

from harness import FAMILY_EOS, SANITIZED, Site, binary, complete, expect, main, parallel, prompts, questions, request, wait_until

SEED = int(os.environ.get("SHOAL_TEST_SEED", "20261128"))
N_PROMPTS = int(os.environ.get("SHOAL_TEST_PROMPTS", "2" if SANITIZED else "12"))
KEY = "key-that-no-log-may-hold"


class Proxy:
    """TCP between a cloud and its engine. `plan` is called with the number of each connection that carries a
    completion, and says what becomes of the answer: None, or a function (client, upstream bytes iterator)."""

    def __init__(self, target):
        host, port = target.removeprefix("http://").rsplit(":", 1)
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.plan = None
        self.n_completions = 0
        self.bodies = []
        self.n_open = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    @staticmethod
    def read_request(client):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = client.recv(65536)
            if not piece:
                return None
            data += piece
        head, body = data.split(b"\r\n\r\n", 1)
        lines = head.split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += client.recv(65536)
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        return b"\r\n".join(kept + [b"Connection: close"]) + b"\r\n\r\n" + body, body

    def serve(self, client):
        with client:
            asked = self.read_request(client)
            if asked is None:
                return
            whole, body = asked
            plan = None
            if whole.startswith(b"POST"):
                with self.lock:
                    self.n_completions += 1
                    self.bodies.append(json.loads(body))
                    plan = self.plan(self.n_completions) if self.plan else None
            with self.lock:
                self.n_open += 1
            try:
                with socket.create_connection(self.target) as engine:
                    engine.sendall(whole)
                    pieces = iter(lambda: engine.recv(65536), b"")
                    (plan or self.copy)(client, pieces)
            except OSError:
                pass
            finally:
                with self.lock:
                    self.n_open -= 1

    @staticmethod
    def copy(client, pieces):
        for piece in pieces:
            client.sendall(piece)

    def close(self):
        self.listener.close()


def answer_of(status, headers="", body=b"{}"):
    def plan(client, pieces):
        client.sendall(b"HTTP/1.1 %d No\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n"
                       % (status, headers.encode(), len(body)) + body)
    return plan


def cut_after(n_events):
    def plan(client, pieces):
        seen = 0
        for piece in pieces:
            for line in piece.splitlines(keepends=True):
                client.sendall(line)
                seen += line.startswith(b"data:")
                if seen > n_events:
                    client.shutdown(socket.SHUT_RDWR)
                    return
    return plan


def byte_by_byte(client, pieces):
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        for i in range(len(piece)):
            client.sendall(piece[i:i + 1])


def nonsense(client, pieces):
    body = b"data: {\"choices\": [{\"text\": 5}]}\n\n"
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body)


def stall(client, pieces):
    """Silent until the other side gives up: it sends nothing more, so that is all there is to hear."""
    next(pieces)
    client.settimeout(30)
    client.recv(1)


def without_ids(client, pieces):
    """What an engine sends that tells text alone."""
    rest = b""
    in_body = False
    for piece in pieces:
        rest += piece
        if not in_body and b"\r\n\r\n" in rest:
            head, rest = rest.split(b"\r\n\r\n", 1)
            kept = [h for h in head.split(b"\r\n") if not h.lower().startswith((b"transfer-encoding", b"content-length"))]
            client.sendall(b"\r\n".join(kept) + b"\r\nConnection: close\r\n\r\n")
            in_body = True
    for line in rest.split(b"\n"):
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            chunk.pop("shoal", None)
            for choice in chunk.get("choices", []):
                choice.pop("logprobs", None)
            client.sendall(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    client.sendall(b"data: [DONE]\n\n")


def stack(site, with_key=False, verify=True, **settings):
    """(engine, proxy, cloud, edge), started."""
    full, edge_model = site.models()
    engine_settings = {"api__key": KEY} if with_key else {}
    if with_key:
        with open(site.file("key"), "w", encoding="ascii") as f:
            f.write(KEY + "\n")
        settings["upstream__api_key_file"] = site.file("key")
    engine = site.edge(full, mode__default="local", **engine_settings).start()
    proxy = Proxy(engine.address)
    base = {"backend": "upstream", "upstream__url": proxy.address, "upstream__tokenizer": full,
            "upstream__verify": str(verify).lower(), "upstream__start_ms": "10000"}
    base.update(settings)
    cloud = site.cloud("", **base).start()
    if "http__address" in settings:
        cloud.url = cloud.process.stdout.readline().removeprefix("http: ").strip()
    edge = site.edge(edge_model, cloud.address, coop__reconnect_ms="2000").start()
    proxy.n_completions = 0
    proxy.bodies.clear()
    return engine, proxy, cloud, edge


def cases():
    rng = random.Random(SEED)
    texts = prompts(N_PROMPTS, SEED) if SANITIZED else questions(N_PROMPTS, SEED)
    return [(p, t, rng.getrandbits(48)) for t in (0.0, 0.8) for p in texts]


def ask(url, mode, case, n=24, long=False, **fields):
    prompt, temperature, seed = case
    if long and not SANITIZED:
        fields["logit_bias"] = {str(FAMILY_EOS): -100}
    return complete(url, prompt, mode, n=n, chat=not SANITIZED, temperature=temperature, seed=seed, **fields)


def complete_direct(engine, case):
    """From an engine that wants its key."""
    plain = http.client.HTTPConnection.request

    def with_key(self, method, url, body=None, headers=None, **rest):
        return plain(self, method, url, body, {**(headers or {}), "Authorization": f"Bearer {KEY}"}, **rest)

    http.client.HTTPConnection.request = with_key
    try:
        return ask(engine.address, "local", case)
    finally:
        http.client.HTTPConnection.request = plain


def same(case, a, b):
    expect(a.error is None and b.error is None, f"{case}: {a.error or b.error}")
    expect(a.ids == b.ids and a.text == b.text and a.finish == b.finish,
           f"{case}: the engine says {a.ids} {a.text!r} {a.finish}, through the cloud it is {b.ids} {b.text!r} {b.finish}")


def test_cloud_mode_says_what_the_engine_says():
    some = cases()
    with Site(SEED) as site:
        engine, proxy, cloud, edge = stack(site)
        direct = parallel([lambda c=c: ask(engine.address, "local", c) for c in some], 4)
        through = parallel([lambda c=c: ask(edge.address, "cloud", c) for c in some], 4)
        for case, a, b in zip(some, direct, through):
            same(case, a, b)
        expect(all(isinstance(b["prompt"], list) for b in proxy.bodies), "a prompt went as text")
        status = json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])
        expect(status["cloud"]["backend"] == "upstream", f"the status says {status['cloud']}")
        proxy.close()
        return f"{len(some)} answers, {len(proxy.bodies)} requests to the engine"


def test_text_alone_gives_the_same_text():
    some = cases()[::3]
    with Site(SEED) as site:
        full, edge_model = site.models()
        engine = site.edge(full, mode__default="local").start()
        proxy = Proxy(engine.address)
        proxy.plan = lambda n: without_ids
        cloud = site.cloud("", backend="upstream", upstream__url=proxy.address, upstream__tokenizer=full).start()
        edge = site.edge(edge_model, cloud.address).start()
        cloud.says("ids=text")
        for case in some:
            a = ask(engine.address, "local", case, n=40)
            b = ask(edge.address, "cloud", case, n=40)
            expect(b.error is None, f"{case}: {b.error}")
            # The ids may be others, so the length is another one where it is what ends the answer.
            whole = a.finish == "stop"
            expect(b.text == a.text if whole else a.text.startswith(b.text) or b.text.startswith(a.text),
                   f"{case}: {a.text!r} through text alone is {b.text!r}")
        proxy.close()
        return f"{len(some)} answers"


def test_trouble_with_the_engine_changes_no_token():
    case_0, case_1 = cases()[0], cases()[-1]
    refuse = answer_of(503, "Retry-After: 1\r\n", b'{"error": {"message": "warming up"}}')
    plans = {
        "byte by byte": [byte_by_byte], "cut at once": [cut_after(0)], "cut twice": [cut_after(3), cut_after(5)],
        "nonsense": [nonsense], "503": [refuse], "500": [answer_of(500, "", b"<html>")], "silent": [stall],
    }
    with Site(SEED) as site:
        engine, proxy, cloud, edge = stack(site, upstream__silence_ms="1500" if SANITIZED else "700")
        for case in (case_0, case_1):
            want = ask(engine.address, "local", case, long=True)
            for name, plan in plans.items():
                proxy.n_completions = 0
                proxy.plan = lambda n, plan=plan: plan[n - 1] if n <= len(plan) else None
                got = ask(edge.address, "cloud", case, long=True)
                same((name, case), want, got)
                wanted = 1 + len(plan) - (plan == [byte_by_byte])
                expect(proxy.n_completions == wanted, f"{name}: {proxy.n_completions} requests, not {wanted}")
        proxy.close()
        return f"{2 * len(plans)} answers, each as if nothing had happened"


def test_engine_that_stays_away_is_named():
    with Site(SEED) as site:
        engine, proxy, cloud, edge = stack(site, with_key=True, upstream__retries_max="2")
        case = cases()[0]
        marker = "Where is the marker that no log may hold?"
        proxy.plan = lambda n: answer_of(429, "", b'{"error": {"message": "queue is full"}}')
        answer = complete(edge.address, marker, "cloud", n=8, chat=True, temperature=0)
        expect(answer.error is not None, "an engine that refuses answered")
        words = answer.error["message"]
        for word in (proxy.address, "429", "queue is full", "upstream.connections_max"):
            expect(word in words, f"{word!r} is not in {words!r}")
        expect(proxy.n_completions >= 3, f"{proxy.n_completions} tries of 3")
        proxy.plan = lambda n: answer_of(401, "", b'{"error": {"message": "wrong key"}}')
        answer = ask(edge.address, "cloud", case)
        expect("upstream.api_key_file" in answer.error["message"], f"{answer.error}")
        proxy.plan = lambda n: answer_of(400, "", b'{"error": {"message": "maximum context length is 7"}}')
        answer = ask(edge.address, "cloud", case)
        expect("maximum context length is 7" in answer.error["message"], f"{answer.error}")
        proxy.plan = None
        same(case, complete_direct(engine, case), ask(edge.address, "cloud", case))
        for log in (cloud.tail(), edge.tail()):
            expect(KEY not in log and "marker" not in log, f"a log holds what it may not: {log}")
        proxy.close()


def test_cancelled_answer_ends_its_request():
    with Site(SEED) as site:
        engine, proxy, cloud, edge = stack(site)
        proxy.plan = lambda n: stall
        connection = http.client.HTTPConnection(*edge.address.removeprefix("http://").split(":"), timeout=30)
        connection.request("POST", "/v1/completions", json.dumps({
            "prompt": "The station", "max_tokens": 200, "stream": True, "shoal": {"mode": "cloud"}}))
        wait_until(lambda: proxy.n_open == 1, what="a request to the engine")
        connection.close()
        wait_until(lambda: proxy.n_open == 0, what="the end of the request to the engine")
        proxy.close()


def value(cloud, name):
    for line in request(cloud.url, "GET", "/metrics")[2].decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"{name} is not in /metrics")


class Later(threading.Thread):
    """An answer that is waited for."""

    def __init__(self, url, case, n):
        super().__init__()
        self.call = lambda: ask(url, "cloud", case, n=n, long=True)
        self.answer = None
        self.start()

    def run(self):
        self.answer = self.call()

    def good(self):
        self.join(60)
        return self.answer is not None and self.answer.error is None


def test_connections_go_round_the_tenants():
    """One connection, a tenant with five sessions and one with one: the latter is next, whoever came first."""
    with Site(SEED) as site:
        engine, proxy, cloud, greedy = stack(site, upstream__connections_max="1", http__address="127.0.0.1:0")
        modest = site.edge(greedy.settings["model.path"], cloud.address, cloud__cert=site.file("certs/cloud.pem"),
                           cloud__key=site.file("certs/cloud.key")).start()
        gate = threading.Semaphore(0)

        def held(client, pieces):
            gate.acquire()
            proxy.copy(client, pieces)
        proxy.plan = lambda n: held
        case = cases()[0]
        later = [Later(greedy.address, case, 8) for _ in range(5)]
        wait_until(lambda: proxy.n_completions == 1 and value(cloud, "shoal_requests_waiting") == 4, what="four that wait")
        later.append(Later(modest.address, case, 3))
        wait_until(lambda: value(cloud, "shoal_requests_waiting") == 5, what="five that wait")
        gate.release(100)
        expect(all(one.good() for one in later), f"{[one.answer and one.answer.error for one in later]}")
        asked = [body["max_tokens"] for body in proxy.bodies]
        expect(asked.index(3) == 1, f"the modest tenant's call came after {asked.index(3)} of {asked}")
        wait_until(lambda: value(cloud, "shoal_requests_waiting") == 0, what="nobody that waits")
        proxy.close()
        return f"calls of {asked} tokens"


def test_wait_for_a_connection_is_predicted():
    """The only connection is taken for long: who may not wait so long is told, and served once it is free."""
    with Site(SEED) as site:
        engine, proxy, cloud, edge = stack(site, upstream__connections_max="1", http__address="127.0.0.1:0",
                                           admit__wait_max_ms="200")
        hasty = site.edge(edge.settings["model.path"], cloud.address, coop__reconnect_ms="100").start()
        gate = threading.Semaphore(0)

        def held(client, pieces):
            gate.acquire()
            proxy.copy(client, pieces)
        case = cases()[0]
        expect(ask(hasty.address, "cloud", case, n=4).error is None, "an idle engine")
        proxy.plan = lambda n: held
        first = Later(edge.address, case, 8)
        wait_until(lambda: value(cloud, "shoal_admission_wait_seconds") > 0.2, what="a wait that is predicted")
        answer = ask(hasty.address, "cloud", case, n=4)
        expect(answer.error is not None and "admit.wait_max_ms" in answer.error["message"], f"not refused: {answer.error}")
        expect(value(cloud, 'shoal_admission_refused_total{reason="wait"}') >= 1, "not counted")
        gate.release(100)
        expect(first.good(), f"{first.answer and first.answer.error}")
        wait_until(lambda: value(cloud, "shoal_admission_wait_seconds") == 0, what="no wait")
        answer = ask(hasty.address, "cloud", case, n=4)
        expect(answer.error is None, f"not served on a free connection: {answer.error}")
        proxy.close()


def test_exact_is_refused_or_degraded_where_nobody_verifies():
    with Site(SEED) as site:
        engine, proxy, cloud, edge = stack(site, verify=False)
        case = cases()[0]
        answer = ask(edge.address, "exact", case)
        expect(answer.error is not None and "cannot verify" in answer.error["message"], f"{answer.error}")
        expect(proxy.n_completions == 0, "a draft that nobody can judge cost the engine a request")
        answer = ask(edge.address, "exact", case, shoal={"mode": "exact", "degrade": True})
        same(case, ask(engine.address, "local", case), answer)
        expect(set(answer.tiers) == {"cloud"}, f"tiers {answer.tiers}")
        status = json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])
        expect(status["cloud"]["verify"] == "none", f"the status says {status['cloud']}")
        proxy.close()


def test_exact_is_verified_by_log_probabilities():
    some = [c for c in cases() if c[1] == 0.0]
    with Site(SEED) as site:
        engine, proxy, cloud, edge = stack(site)
        cloud.says("scores=echo")
        wrong = site.edge(edge.settings["model.path"], cloud.address, fault__flip_ratio=0.3).start()
        judged = accepted = 0
        for case in some:
            want = ask(engine.address, "local", case)
            for url in (edge.address, wrong.address):
                got = ask(url, "exact", case)
                same(case, want, got)
                judged += got.usage["shoal"]["drafted"]
                accepted += got.usage["shoal"]["accepted"]
        expect(0 < accepted < judged, f"{accepted} of {judged} drafts stood")
        expect(all(b.get("echo") for b in proxy.bodies), "a draft was judged in another way")
        warm = ask(edge.address, "exact", cases()[-1])
        expect(warm.error is not None and "temperature 0" in warm.error["message"], f"{warm.error}")
        status = json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])
        expect(status["cloud"]["verify"] == "greedy", f"the status says {status['cloud']}")
        # Trouble in the middle of verification: asked again, judged the same.
        proxy.n_completions = 0
        proxy.plan = lambda n: [answer_of(503), nonsense, answer_of(200, "", b"{}")][n - 1] if n <= 3 else None
        same(some[0], ask(engine.address, "local", some[0]), ask(edge.address, "exact", some[0]))
        expect(proxy.n_completions > 3, f"{proxy.n_completions} requests")
        proxy.close()
        return f"{2 * len(some)} answers, {accepted} of {judged} drafts stood, {len(proxy.bodies)} requests"


def test_echo_and_logprobs_as_openai_defines_them():
    with Site(SEED) as site:
        full, _ = site.models()
        engine = site.edge(full, mode__default="local").start()

        def completion(**fields):
            status, _, body = request(engine.address, "POST", "/v1/completions", json.dumps(fields),
                                      {"Content-Type": "application/json"})
            return status, json.loads(body)

        text = "The station on the hill measures wind and rain, and so does the one below."
        status, told = completion(prompt=text, max_tokens=3, temperature=0, echo=True, logprobs=1)
        expect(status == 200, f"{told}")
        choice = told["choices"][0]
        lists = choice["logprobs"]
        n = told["usage"]["total_tokens"]
        expect({len(v) for v in lists.values()} == {n} and len(lists) == 4, f"lists of {[len(v) for v in lists.values()]}, not {n}")
        expect(choice["text"].startswith(text), f"the prompt is not in {choice['text']!r}")
        expect(lists["token_logprobs"][0] is None and lists["top_logprobs"][0] is None, "the first token has a past")
        for own, top in zip(lists["token_logprobs"][1:], lists["top_logprobs"][1:]):
            expect(len(top) == 1 and own <= next(iter(top.values())) <= 0, f"{own} above the likeliest {top}")
        # Generated at temperature 0, so each is the likeliest; and scored again as a prompt it is worth the same.
        new = -told["usage"]["completion_tokens"]
        expect(lists["token_logprobs"][new:] == [next(iter(t.values())) for t in lists["top_logprobs"][new:]], f"{lists}")
        names = completion(prompt=text, max_tokens=3, temperature=0, echo=True, logprobs=1, return_tokens_as_token_ids=True)[1]
        ids = [int(t.removeprefix("token_id:")) for t in names["choices"][0]["logprobs"]["tokens"]]
        again = completion(prompt=ids, max_tokens=1, temperature=0, echo=True, logprobs=1)[1]["choices"][0]["logprobs"]
        expect(again["token_logprobs"][:n] == lists["token_logprobs"], "the same text is worth something else as a prompt")
        offsets = lists["text_offset"]
        expect(offsets[0] == 0 and offsets == sorted(offsets), f"offsets {offsets}")
        status, told = completion(prompt=text, max_tokens=2, temperature=0, logprobs=0)
        expect(status == 200 and len(told["choices"][0]["logprobs"]["tokens"]) == told["usage"]["completion_tokens"], f"{told}")
        for fields in ({"stream": True, "echo": True}, {"logprobs": 6}, {"logprobs": True}, {"echo": 1},
                       {"logprobs": 1, "shoal": {"mode": "cloud"}}):
            status, told = completion(prompt=text, max_tokens=2, **fields)
            expect(status in (400, 503) and told["error"]["message"], f"{fields}: {status} {told}")


def test_cloud_that_waits_for_its_engine_hears_sigterm():
    """At once, whether the engine refuses, or takes connections and says nothing; and exits 0."""
    with Site() as site:
        full, _ = site.models()
        for answers in (True, False):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.settimeout(30)
                command = [binary("shoal-cloud")]
                for key, value in {"listen.address": "127.0.0.1:0", "backend": "upstream", "upstream.tokenizer": full,
                                   "upstream.url": f"http://127.0.0.1:{listener.getsockname()[1]}",
                                   "upstream.start_ms": "600000"}.items():
                    command += ["--set", f"{key}={value}"]
                with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
                    try:
                        client, _ = listener.accept()
                        if answers:
                            client.close()
                        process.send_signal(signal.SIGTERM)
                        began = time.monotonic()
                        status = process.wait(20)
                        took = time.monotonic() - began
                    finally:
                        process.kill()
                    expect(status == 0, f"exit {status}: {process.stderr.read()}")
                    expect(took < (15 if SANITIZED else 5), f"ended {took:.1f} s after SIGTERM")


if __name__ == "__main__":
    main([test_cloud_that_waits_for_its_engine_hears_sigterm, test_cloud_mode_says_what_the_engine_says, test_exact_is_verified_by_log_probabilities,
          test_echo_and_logprobs_as_openai_defines_them, test_text_alone_gives_the_same_text,
          test_trouble_with_the_engine_changes_no_token, test_engine_that_stays_away_is_named,
          test_cancelled_answer_ends_its_request, test_connections_go_round_the_tenants, test_wait_for_a_connection_is_predicted,
          test_exact_is_refused_or_degraded_where_nobody_verifies])
