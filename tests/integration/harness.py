# SPDX-License-Identifier: Apache-2.0
"""What integration tests share: real daemons on loopback with mTLS, and a plain HTTP client.

Everything runs from the build's bin directory (SHOAL_BIN_DIR). Models are the family of deploy/models;
sanitized builds, which are slow, take small random ones made here from a seed.
"""
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SOURCE = os.environ.get("SHOAL_SOURCE_DIR", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("SHOAL_BIN_DIR", os.path.join(SOURCE, "build/release/bin"))
SHARED = os.path.join(SOURCE, "..", "shared")
FAMILY = os.path.join(SOURCE, "deploy/models/minnow")
FAMILY_EOS = 1
SANITIZED = "asan" in BIN or "tsan" in BIN
SKIPPED = 77  # ctest's word for a test that could not run


def binary(name):
    return os.path.join(BIN, name)


def run(*command, check=True, text=None, timeout=120):
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr.strip()}")
    return done


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


class Daemon:
    """One daemon: started, waited for by its ready line, stopped or killed."""

    def __init__(self, name, ready, settings, log):
        self.name, self.ready, self.log = name, ready, log
        self.settings = dict(settings)
        self.arguments = []
        self.prefix = []  # a command that starts the daemon somewhere else
        self.process = None
        self.address = None

    def start(self):
        command = [*self.prefix, binary(self.name), *self.arguments]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        self.stderr = open(self.log, "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        line = self.process.stdout.readline()
        if not line.startswith(self.ready):
            self.process.wait(10)
            raise AssertionError(f"{self.name} did not start: {self.tail()}")
        self.address = line[len(self.ready):].strip()
        return self

    def tail(self):
        if not os.path.exists(self.log):
            return "(never started)"
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-2000:]

    def says(self, text, seconds=10):
        """Waits for it in the log: a thread of the daemon's writes that, behind what was answered."""
        wait_until(lambda: text in self.tail(), seconds, f"{self.name} to say {text!r}")

    def freeze(self):
        """SIGSTOP, and every thread has: a signal is under way for a while. SIGCONT goes on."""
        self.process.send_signal(signal.SIGSTOP)

        def stands():
            states = []
            for thread in os.listdir(f"/proc/{self.process.pid}/task"):
                with open(f"/proc/{self.process.pid}/task/{thread}/stat", encoding="ascii", errors="replace") as f:
                    states.append(f.read().rsplit(")", 1)[1].split()[0])
            return set(states) == {"T"}
        wait_until(stands, 10, f"{self.name} to stand still")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()

    def stop(self, seconds=30):
        """SIGTERM, and the exit status must be 0: nothing leaked, nothing left behind."""
        if self.process is None or self.process.poll() is not None:
            status = self.process.returncode if self.process else 0
        else:
            self.process.send_signal(signal.SIGTERM)
            try:
                status = self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} did not end {seconds} s after SIGTERM: {self.tail()}") from None
        if self.process:
            self.process.stdout.close()
            self.stderr.close()
        expect(status == 0, f"{self.name} ended with {status}: {self.tail()}")


class Site:
    """A folder with keys, models and daemons; everything ends with it."""

    def __init__(self, seed=1):
        self.folder = tempfile.TemporaryDirectory(prefix="shoal-test-")
        self.path = self.folder.name
        self.daemons = []
        run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), self.file("certs"))
        self.seed = seed

    def file(self, name):
        return os.path.join(self.path, name)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        failed = None
        for daemon in reversed(self.daemons):
            try:
                daemon.stop()
            except AssertionError as error:
                failed = failed or error
        if kind is not None:
            for daemon in self.daemons:
                print(f"--- {daemon.name}\n{daemon.tail()}", file=sys.stderr)
        self.folder.cleanup()
        if failed and kind is None:
            raise failed

    def models(self, edge_type="Q8_0"):
        """A cloud model and its edge model: the family, or under sanitizers a small one and its conversion."""
        if not SANITIZED:
            return os.path.join(FAMILY, "minnow-full.gguf"), os.path.join(FAMILY, "minnow-edge.gguf")
        full = self.tiny_model(self.seed)
        edge = self.file(f"edge-{edge_type}.gguf")
        run(binary("shoal-forge"), "convert", "-m", full, "--type", edge_type, "-o", edge)
        return full, edge

    def tiny_model(self, seed, kind="F32", variant=None):
        path = self.file(f"tiny-{seed}-{kind}-{variant}.gguf")
        run(os.path.join(os.path.dirname(BIN), "tests", "shoal-tiny-model"), str(seed), path, kind,
            *([variant] if variant else []))
        return path

    def tiny_lora(self, seed, model, rank=4):
        path = self.file(f"lora-{seed}-{rank}.gguf")
        run(os.path.join(os.path.dirname(BIN), "tests", "shoal-tiny-lora"), str(seed), model, path, str(rank))
        return path

    def cloud(self, model, port=0, **settings):
        base = {
            "listen.address": f"127.0.0.1:{port}", "model.path": model,
            "tls.ca": self.file("certs/ca.pem"), "tls.cert": self.file("certs/cloud.pem"),
            "tls.key": self.file("certs/cloud.key"),
        }
        base.update({k.replace("__", "."): v for k, v in settings.items()})
        daemon = Daemon("shoal-cloud", "grpc: ", base, self.file(f"cloud-{len(self.daemons)}.log"))
        self.daemons.append(daemon)
        return daemon

    def edge(self, model, cloud_address=None, **settings):
        base = {"listen.address": "127.0.0.1:0", "model.path": model}
        if cloud_address:
            base.update({
                "cloud.target": cloud_address, "cloud.ca": self.file("certs/ca.pem"),
                "cloud.cert": self.file("certs/edge.pem"), "cloud.key": self.file("certs/edge.key"),
                "cloud.name_override": "localhost",
            })
        base.update({k.replace("__", "."): v for k, v in settings.items()})
        daemon = Daemon("shoal-edge", "http: ", base, self.file(f"edge-{len(self.daemons)}.log"))
        self.daemons.append(daemon)
        return daemon


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Answer:
    def __init__(self):
        self.status = 0
        self.ids = []
        self.tiers = []
        self.unassisted = []
        self.text = ""
        self.finish = None
        self.usage = None
        self.error = None


def connect(url, timeout=60):
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return http.client.HTTPConnection(host, int(port), timeout=timeout)


def request(url, method, path, body=None, headers=None, timeout=60):
    """(status, headers, body bytes) of one plain request."""
    connection = connect(url, timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def complete(url, prompt, mode, n=24, timeout=120, on_event=None, chat=False, **fields):
    """One streamed completion or answer of a chat; every event is checked for form on the way."""
    body = {"max_tokens": n, "stream": True, "stream_options": {"include_usage": True}, "shoal": {"mode": mode}}
    body.update({"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt})
    body.update(fields)
    answer = Answer()
    connection = connect(url, timeout)
    try:
        connection.request("POST", "/v1/chat/completions" if chat else "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer.status = response.status
        if response.status != 200:
            answer.error = json.loads(response.read())["error"]
            return answer
        done = False
        event = None
        for raw in response:
            line = raw.decode("utf-8").rstrip("\r\n")
            if line.startswith("event:"):
                event = line[6:].strip()
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                done = True
                break
            chunk = json.loads(data)
            if event == "error" or "error" in chunk:
                answer.error = chunk.get("error", chunk)
                return answer
            for token in chunk.get("shoal", {}).get("tokens", []):
                answer.ids.append(token["id"])
                answer.tiers.append(token["tier"])
                answer.unassisted.append(token.get("unassisted"))
            for choice in chunk["choices"]:
                answer.text += (choice["delta"].get("content") if chat else choice.get("text")) or ""
                answer.finish = choice.get("finish_reason") or answer.finish
            answer.usage = chunk.get("usage") or answer.usage
            if on_event:
                on_event(answer)
        expect(done, "the stream ended without [DONE]")
        return answer
    finally:
        connection.close()


class Judge:
    """What each model says after any beginning of a text: an edge of its own each, in mode local."""

    def __init__(self, site, full, edge_model):
        self.urls = {"cloud": site.edge(full).start().address, "edge": site.edge(edge_model).start().address}

    def scores(self, tier, prompt):
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1,
                "return_tokens_as_token_ids": True, "shoal": {"mode": "local"}}
        code, _, data = request(self.urls[tier], "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        expect(code == 200, data[:300])
        return json.loads(data)["choices"][0]["logprobs"]

    def ids(self, prompt):
        """A question's prompt as token ids."""
        text = prompt if SANITIZED else f"[INST]{prompt}[/INST]"
        return [int(t.removeprefix("token_id:")) for t in self.scores("edge", text)["tokens"]][:-1]

    def says(self, tier, ids):
        """Likeliest token at each position of a list of ids."""
        return [int(max(top, key=top.get).removeprefix("token_id:")) if top else None
                for top in self.scores(tier, ids)["top_logprobs"]]

    def check(self, prompt_ids, answer, what):
        """Every token of an answer is what its tier says after exactly the tokens before it: none was
        lost, repeated or exchanged."""
        ids = prompt_ids + answer.ids
        for tier in sorted(set(answer.tiers)):
            tops = self.says(tier, ids)
            for i, (token, who) in enumerate(zip(answer.ids, answer.tiers)):
                expect(who != tier or tops[len(prompt_ids) + i] == token,
                       f"{what}: token {i} of {answer.ids} is {token}, {tier} says {tops[len(prompt_ids) + i]}")


def parallel(jobs, width):
    """Runs the callables on `width` threads; results in order, the first failure raised."""
    results = [None] * len(jobs)
    failures = []
    lock = threading.Lock()
    todo = list(range(len(jobs)))[::-1]

    def work():
        while True:
            with lock:
                if not todo or failures:
                    return
                i = todo.pop()
            try:
                results[i] = jobs[i]()
            except BaseException as error:  # noqa: BLE001 - reported below
                with lock:
                    failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(width)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]
    return results


WORDS = ("once upon a time there was a little dog who liked to play in the big green park with his "
         "friend the cat and they saw a red ball under tree mom said be careful it is very hot today").split()


def prompts(n, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 12))).capitalize() for _ in range(n)]


def examples(n, split="test", exponent=1, seed=1):
    """What people ask the family, with the answers: [(question, answer)]. Below 1 the exponent asks more of the tail."""
    lines = run(binary("shoal-forge"), "make-data", "--seed", str(seed), "--split", split, "--exponent", str(exponent), "-n", str(n))
    return [(d["prompt"], d["answer"]) for d in map(json.loads, lines.stdout.splitlines())]


def questions(n, seed):
    """What people ask the family, the head of its catalogue and the tail."""
    asked = [question for question, _ in examples(4 * n, exponent=0.5)]
    return random.Random(seed).sample(asked, n)


def wait_until(check, seconds=20, what="condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def main(tests):
    """Runs the functions given, or those named on the command line, or all but those named with a "-" in front; prints one line
    each. One that returns "skipped: why" could not be run here; exit SKIPPED where none could."""
    named, left_out = ({a.lstrip("-") for a in sys.argv[1:] if a.startswith("-") == out} for out in (False, True))
    unknown = (named | left_out) - {t.__name__ for t in tests}
    if unknown:
        print(f"no such test: {', '.join(sorted(unknown))}", file=sys.stderr)
        sys.exit(2)
    chosen = [t for t in tests if (not named or t.__name__ in named) and t.__name__ not in left_out]
    failed = skipped = 0
    for test in chosen:
        started = time.monotonic()
        try:
            note = test() or ""
            passed_over = note.startswith("skipped: ")
            skipped += passed_over
            print(f"{'skip' if passed_over else 'ok  '} {test.__name__} ({time.monotonic() - started:.1f} s) {note}", flush=True)
        except Exception as error:  # noqa: BLE001 - the report of a test
            failed += 1
            import traceback
            traceback.print_exc()
            print(f"FAIL {test.__name__}: {error}", flush=True)
    print(f"{len(chosen) - failed - skipped} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    sys.exit(1 if failed else SKIPPED if chosen and skipped == len(chosen) else 0)
