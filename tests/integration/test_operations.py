#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What operators do to a cloud node while it serves: scrape, drain, reload, rotate, limit."""
import os
import shutil
import signal
import socket
import threading
import time

from harness import (SANITIZED, SOURCE, Site, complete, expect, main, request, run, wait_until)

NO_END = {"logit_bias": {"1": -100, "2": -100}, "temperature": 0.8, "seed": 3}
LONG = 900


def node(site, model, config=None, **settings):
    """A cloud with its operations endpoint; url is where that listens."""
    cloud = site.cloud(model, http__address="127.0.0.1:0", **settings)
    cloud.arguments = ["--config", config] if config else []
    cloud.start()
    line = cloud.process.stdout.readline()
    expect(line.startswith("http: "), f"no address of the operations endpoint: {line!r}")
    cloud.url = line[len("http: "):].strip()
    return cloud


def metrics(cloud):
    status, headers, body = request(cloud.url, "GET", "/metrics")
    expect(status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), f"{status} {headers}")
    return body.decode()


def value(cloud, name):
    for line in metrics(cloud).splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"{name} is not in /metrics")


def ready(cloud):
    return request(cloud.url, "GET", "/readyz")[0]


class Streams:
    """Long answers that run while something is done to the node."""

    def __init__(self, url, n, tokens=LONG):
        self.answers, self.started, self.seen = [None] * n, [0] * n, [None] * n
        self.threads = [threading.Thread(target=self.one, args=(url, i, tokens)) for i in range(n)]
        for t in self.threads:
            t.start()
        wait_until(lambda: all(self.started), 60, "every stream has begun")

    def one(self, url, i, tokens):
        def seen(answer):
            self.seen[i] = answer
            self.started[i] = 1
        try:
            self.answers[i] = complete(url, "Once upon a time", "cloud", n=tokens, on_event=seen, **NO_END)
        finally:
            self.started[i] = 1

    def finish(self, tokens=LONG):
        for t in self.threads:
            t.join(120)
        for answer in self.answers:
            expect(answer is not None and answer.error is None, f"a stream failed: {answer and answer.error}")
            expect(len(answer.ids) == tokens, f"{len(answer.ids)} of {tokens} tokens, finish {answer.finish}")
            expect(answer.ids == self.answers[0].ids, "the same seed gave another text")


def test_probes_and_metrics():
    with Site() as site:
        full, edge_model = site.models()
        cloud = node(site, full, http__connections_max=4)
        edge = site.edge(edge_model, cloud.address).start()
        expect(request(cloud.url, "GET", "/healthz")[0] == 200 and ready(cloud) == 200, "not healthy or not ready")
        marker = "zyxwvut-never-logged"
        answer = complete(edge.address, marker, "exact", n=8)
        expect(answer.error is None, f"{answer.error}")
        wait_until(lambda: "session end" in cloud.tail(), 10, "the session's line")
        line = [text for text in cloud.tail().splitlines() if "session end" in text][-1]
        for word in ("id=", "tenant=spiffe://shoal.dev/edge/dev", "mode=exact", "outcome=ok", "prompt=", "generated=",
                     "rounds=", "acceptance=", "guessed=0 guessed_right=0", "evictions=", "compute_ms=", "ttft_ms=", "wall_ms="):
            expect(word in line, f"{word} is not in {line}")
        text = metrics(cloud)
        expect(marker not in cloud.tail() and marker not in text, "the prompt was told")
        for name in ("shoal_requests_total{code=\"ok\"} 1", "shoal_requests_running", "shoal_requests_waiting",
                     "shoal_time_to_first_token_seconds_count 1", "shoal_tokens_total{kind=\"prompt\",place=\"cloud\"}",
                     "shoal_kv_cache_usage_ratio", "shoal_build_info{program=\"shoal-cloud\"",
                     "shoal_certificate_expiry_timestamp_seconds", "process_resident_memory_bytes",
                     "shoal_config_reload_failures_total 0", "shoal_admission_refused_total{reason=\"wait\"} 0"):
            expect(name in text, f"{name} is not in /metrics")
        for _ in range(2):  # the second finds the KV of whole blocks of the first
            expect(complete(edge.address, "Once upon a time " * 20, "cloud", n=30, **NO_END).error is None, "a long prompt")
        wait_until(lambda: value(cloud, 'shoal_tokens_total{kind="cached",place="cloud"}') >= 32, 10, "cached tokens")
        expect(value(cloud, 'shoal_tokens_total{kind="cached",place="cloud"}') == value(cloud, "shoal_prefix_hit_tokens_total"),
               "tokens that were found and those that the prefix cache gave")
        expect(value(cloud, "shoal_time_per_output_token_seconds_count") >= 2, "no time between tokens")
        expect(value(cloud, "shoal_time_per_output_token_seconds_sum") > 0, "no time between tokens")
        expect(SANITIZED or value(cloud, "shoal_memory_used_bytes") > 1 << 20, "memory in use")
        expect(value(cloud, "shoal_certificate_expiry_timestamp_seconds") > time.time() + 20 * 86400, "expiry")
        hostile(cloud)
        expect(request(cloud.url, "GET", "/healthz")[0] == 200, "not healthy after hostile requests")


def test_prometheus_takes_the_names_of_metrics():
    if shutil.which("promtool") is None:
        return "skipped: promtool is not installed (deploy/deps unpacks it)"
    with Site() as site:
        full, edge_model = site.models()
        cloud = node(site, full)
        edge = site.edge(edge_model, cloud.address).start()
        for daemon, url in (("cloud", cloud.url), ("edge", edge.address)):
            text = request(url, "GET", "/metrics")[2].decode()
            done = run("promtool", "check", "metrics", text=text, check=False)
            expect(done.returncode == 0 and not done.stderr.strip(), f"promtool on {daemon}: {done.stdout}{done.stderr}")
        broken = run("promtool", "check", "metrics", text=text.replace("shoal_build_info", "shoal:build_info"), check=False)
        expect(broken.returncode != 0, "promtool takes everything")


def hostile(cloud):
    """Bounded: what is wrong is refused, who waits is sent away."""
    host, port = cloud.url.removeprefix("http://").rsplit(":", 1)

    def say(data):
        with socket.create_connection((host, int(port)), 10) as s:
            s.sendall(data)
            reply = b""
            while b"\r\n" not in reply:
                part = s.recv(4096)
                if not part:
                    break
                reply += part
            return int(reply.split()[1]) if reply.startswith(b"HTTP/1.1 ") else 0
    head = b"Host: localhost\r\n"
    for status, data in ((404, b"GET / HTTP/1.1\r\n" + head + b"\r\n"),
                         (405, b"POST /metrics HTTP/1.1\r\n" + head + b"Content-Length: 0\r\n\r\n"),
                         (403, b"GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n"),
                         (400, b"GET /metrics HTTP/1.1\n" + head + b"\r\n"),
                         (431, b"GET /metrics HTTP/1.1\r\n" + head + b"X: y\r\n" * 500 + b"\r\n"),
                         (431, b"GET /metrics HTTP/1.1\r\n" + head + b"X: " + b"y" * 20000 + b"\r\n\r\n"),
                         (414, b"GET /" + b"m" * 3000 + b" HTTP/1.1\r\n" + head + b"\r\n"),
                         (413, b"GET /metrics HTTP/1.1\r\n" + head + b"Content-Length: 9999999\r\n\r\n")):
        expect(say(data) == status, f"{data[:60]!r} did not give {status}")
    idle = [socket.create_connection((host, int(port)), 10) for _ in range(4)]
    for s in idle:
        s.sendall(b"GET /met")
    expect(say(b"GET /healthz HTTP/1.1\r\n" + head + b"\r\n") == 503, "the fifth of four connections was let in")
    for s in idle:
        s.close()
    wait_until(lambda: say(b"GET /healthz HTTP/1.1\r\n" + head + b"\r\n") == 200, 10, "places free again")


def test_sigterm_drains_streams():
    """Not ready at once, new sessions refused, open ones whole, exit 0."""
    with Site() as site:
        full, edge_model = site.models()
        cloud = node(site, full)
        edge = site.edge(edge_model, cloud.address).start()
        late = site.edge(edge_model, cloud.address, coop__reconnect_ms=200).start()
        expect(complete(late.address, "Once", "cloud", n=2).error is None, "the second edge")
        streams = Streams(edge.address, 4)
        cloud.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ready(cloud) == 503, 2, "not ready")
        expect(request(cloud.url, "GET", "/healthz")[0] == 200, "draining is not unhealthy")
        answer = complete(late.address, "Once", "cloud", n=2)
        expect(answer.error is not None, "a new session was taken while draining")
        streams.finish()
        expect(cloud.process.wait(30) == 0, f"exit {cloud.process.returncode}")


def test_sigterm_cuts_after_the_grace():
    with Site() as site:
        full, edge_model = site.models()
        cloud = node(site, full, drain__grace_ms=100)
        edge = site.edge(edge_model, cloud.address, coop__reconnect_ms=200).start()
        thread = threading.Thread(target=complete, args=(edge.address, "Once upon a time", "cloud"),
                                  kwargs={"n": LONG, **NO_END})
        thread.start()
        wait_until(lambda: value(cloud, "shoal_requests_running") > 0, 20, "the stream")
        started = time.monotonic()
        cloud.process.send_signal(signal.SIGTERM)
        expect(cloud.process.wait(30) == 0, f"exit {cloud.process.returncode}")
        expect(time.monotonic() - started < 10, "the grace was not kept")
        thread.join(60)


def test_sighup_reloads_under_streams():
    """Good and bad configurations in turn: streams do not notice, limits change, a bad one changes nothing."""
    with Site() as site:
        full, edge_model = site.models()
        path = site.file("cloud.yaml")

        def write(text):
            with open(path + ".new", "w", encoding="utf-8") as f:
                f.write(text)
            os.rename(path + ".new", path)
        write("tenants:\n  sessions_max: 0\n")
        cloud = node(site, full, path)
        edge = site.edge(edge_model, cloud.address, coop__reconnect_ms=300).start()
        streams = Streams(edge.address, 2)
        for text in ("tenants:\n  sessions_max: 2\n", "tenants:\n  sessions_max: many\n", "model:\n  threads: 1\n",
                     "tenants:\n  overrides: gw session=1\n", "tenants: [\n"):
            counter = "shoal_config_reloads_total" if text.endswith("2\n") else "shoal_config_reload_failures_total"
            before = value(cloud, counter)
            write(text)
            cloud.process.send_signal(signal.SIGHUP)
            wait_until(lambda: value(cloud, counter) == before + 1, 10, f"{counter} after {text!r}")  # noqa: B023
        for _ in range(50):
            cloud.process.send_signal(signal.SIGHUP)
        third = complete(edge.address, "Once", "cloud", n=2)
        expect(third.error is not None and "tenants.sessions_max" in third.error["message"], f"no quota: {third.error}")
        expect(value(cloud, 'shoal_admission_refused_total{reason="tenant_sessions"}') >= 1, "not counted")
        streams.finish()
        wait_until(lambda: value(cloud, "shoal_requests_running") == 0, 10, "idle")
        expect(complete(edge.address, "Once", "cloud", n=2).error is None, "the node no longer serves")


def test_certificates_rotate_under_load():
    """A new authority for the node: open streams go on, old gateways are refused, new ones served."""
    with Site() as site:
        full, edge_model = site.models()
        run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), site.file("next"))
        cloud = node(site, full)
        old = site.edge(edge_model, cloud.address, coop__reconnect_ms=500).start()
        streams = Streams(old.address, 4)
        # Half of a rotation, key and certificate of two authorities: refused, nothing changes.
        os.replace(site.file("certs/cloud.key"), site.file("old.key"))
        shutil.copy(site.file("next/cloud.key"), site.file("certs/cloud.key"))
        cloud.process.send_signal(signal.SIGHUP)
        wait_until(lambda: value(cloud, "shoal_config_reload_failures_total") == 1, 10, "half a rotation refused")
        cloud.says("is not the key of the certificate")
        for name in ("ca.pem", "cloud.pem"):
            shutil.copy(site.file("certs/" + name), site.file("old-" + name))
            shutil.copy(site.file("next/" + name), site.file("certs/" + name))
        cloud.process.send_signal(signal.SIGHUP)
        wait_until(lambda: value(cloud, "shoal_config_reloads_total") == 1, 10, "rotation")
        new = site.edge(edge_model, cloud.address, cloud__ca=site.file("next/ca.pem"),
                        cloud__cert=site.file("next/edge.pem"), cloud__key=site.file("next/edge.key")).start()
        answer = complete(new.address, "Once", "cloud", n=4)
        expect(answer.error is None, f"the new certificate is not served: {answer.error}")
        stranger = site.edge(edge_model, cloud.address, coop__reconnect_ms=500, cloud__ca=site.file("old-ca.pem")).start()
        expect(complete(stranger.address, "Once", "cloud", n=4).error is not None, "the old authority is still taken")
        streams.finish()


def make_edge_pair(site, folder, identity, days):
    """A pair for an edge of the authority in this folder of the site, as PATH.pem and PATH.key; its path."""
    path = site.file(f"{folder}/{identity}")
    with open(path + ".ext", "w", encoding="ascii") as f:
        f.write(f"subjectAltName=URI:spiffe://shoal.dev/edge/{identity}\nextendedKeyUsage=clientAuth\n")
    run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", path + ".key", "-subj",
        f"/CN={identity}", "-out", path + ".csr")
    run("openssl", "x509", "-req", "-in", path + ".csr", "-CA", site.file(f"{folder}/ca.pem"), "-CAkey", site.file(f"{folder}/ca.key"),
        "-set_serial", "7", "-days", str(days), "-extfile", path + ".ext", "-out", path + ".pem")
    return path


def test_edge_takes_new_certificates_under_streams():
    """The other end. A pair that is broken changes nothing. With a good one streams under way end on their old connection, which
    the edge could not make anew, token by token as they would have; those that begin show the new one."""
    with Site() as site:
        full, edge_model = site.models()
        run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), site.file("next"))
        renewed = make_edge_pair(site, "next", "renewed", 60)
        os.mkdir(site.file("link"))
        for name in ("ca.pem", "edge.pem", "edge.key"):
            shutil.copy(site.file("certs/" + name), site.file("link/" + name))
        cloud = node(site, full)
        edge = site.edge(edge_model, cloud.address, coop__reconnect_ms=500,
                         **{f"cloud__{kind}": site.file(f"link/{name}") for kind, name in
                            (("ca", "ca.pem"), ("cert", "edge.pem"), ("key", "edge.key"))}).start()
        edge.url = edge.address
        expiry = 'shoal_certificate_expiry_timestamp_seconds{use="cloud"}'

        def tenants():
            with open(cloud.log, encoding="utf-8") as f:
                return [line.split(" tenant=")[1].split()[0] for line in f if " session end " in line]

        def served_as(identity, n):
            """One more answer, the n-th session of the node, comes from the edge of this identity."""
            answer = complete(edge.address, "Once", "cloud", n=4)
            expect(answer.error is None, f"{answer.error}")
            wait_until(lambda: len(tenants()) == n, 10, f"session {n}")
            expect(tenants()[-1] == f"spiffe://shoal.dev/edge/{identity}", tenants())

        def hang_up(counter, line):
            before = edge.tail().count(line)
            edge.process.send_signal(signal.SIGHUP)
            wait_until(lambda: edge.tail().count(line) == before + 1, 20, line)
            expect(value(edge, "shoal_config_reload_failures_total") == counter, "failures counted")
        served_as("dev", 1)
        ends = value(edge, expiry)
        expect(abs(ends - time.time() - 30 * 86400) < 86400, f"the old certificate ends at {ends}")
        # The node shows a certificate of the next authority alone: from here on the edge as it is connects no more. Calls on its
        # connection are taken, since the node still lists the old authority (rows 6.4 and 6.4b of the bad days).
        for name in ("cloud.pem", "cloud.key"):
            shutil.copy(site.file("next/" + name), site.file("certs/" + name))
        with open(site.file("certs/ca.pem"), "ab") as f, open(site.file("next/ca.pem"), "rb") as added:
            f.write(added.read())
        cloud.process.send_signal(signal.SIGHUP)
        wait_until(lambda: value(cloud, "shoal_config_reloads_total") == 1, 10, "the node's rotation")
        # Half of the edge's: a certificate without its key, and then no certificate at all.
        shutil.copy(renewed + ".pem", site.file("link/edge.pem"))
        hang_up(1, "edge.key: is not the key of the certificate in")
        edge.says("put the files right and send SIGHUP again")
        with open(site.file("link/edge.pem"), "w", encoding="ascii") as f:
            f.write("-----BEGIN CERTIFICATE-----\n")
        hang_up(2, "edge.pem: holds no PEM certificate")
        expect(value(edge, expiry) == ends, "a refused certificate is counted on")
        served_as("dev", 2)
        streams = Streams(edge.address, 3)
        cloud.freeze()
        try:
            shutil.copy(renewed + ".pem", site.file("link/edge.pem"))
            shutil.copy(renewed + ".key", site.file("link/edge.key"))
            with open(site.file("link/ca.pem"), "ab") as f, open(site.file("next/ca.pem"), "rb") as added:
                f.write(added.read())
            hang_up(2, "reloaded log.level")
            under_way = [len(answer.ids) for answer in streams.seen]
        finally:
            cloud.process.send_signal(signal.SIGCONT)
        expect(max(under_way) < LONG, f"streams of {under_way} tokens had ended before the reload")
        expect(abs(value(edge, expiry) - time.time() - 60 * 86400) < 86400, "the expiry is not that of the new certificate")
        answer = complete(edge.address, "Once", "cloud", n=4)
        expect(answer.error is None, f"not served with the new certificate: {answer.error}")
        streams.finish()
        expect(all(answer.usage["shoal"]["reconnects"] == 0 for answer in streams.answers), "a stream was cut")
        wait_until(lambda: len(tenants()) == 6, 10, "the streams' lines")
        expect(sorted(tenants()[2:]) == ["spiffe://shoal.dev/edge/dev"] * 3 + ["spiffe://shoal.dev/edge/renewed"], tenants())
        served_as("renewed", 7)
        again = complete(edge.address, "Once upon a time", "cloud", n=LONG, **NO_END)
        expect(again.ids == streams.answers[0].ids, "a stream over two certificates has other tokens")
        return f"streams of {under_way} of {LONG} tokens at the reload"


def test_limits_refuse_at_once_with_a_reason():
    with Site() as site:
        full, edge_model = site.models()
        cloud = node(site, full, context__max=48, tenants__tokens_per_s=1, tenants__tokens_burst=40)
        edge = site.edge(edge_model, cloud.address).start()
        started = time.monotonic()
        answer = complete(edge.address, "Once", "cloud", n=60)
        took = time.monotonic() - started
        expect(answer.error is not None and "context.max" in answer.error["message"], f"fits: {answer.error}")
        expect(took < 5, f"what can never fit took {took:.1f} s, as if it had been tried again")
        expect(value(cloud, 'shoal_admission_refused_total{reason="never_fits"}') == 1, "tried more than once")
        expect(complete(edge.address, "Once", "cloud", n=40, **NO_END).error is None, "the first session")
        started = time.monotonic()
        hasty = site.edge(edge_model, cloud.address, coop__reconnect_ms=100).start()
        # So many that the bucket is not nearly full again by now, however slow the start was.
        answer = complete(hasty.address, "Once", "cloud", n=30)
        expect(answer.error is not None and "tenants.tokens_per_s" in answer.error["message"], f"no quota: {answer.error}")
        expect(value(cloud, 'shoal_admission_refused_total{reason="tenant_tokens"}') == 1, "not refused once")
        # The edge that has the time waits as long as it was told, and is served.
        answer = complete(edge.address, "Once", "cloud", n=4)
        expect(answer.error is None, f"not served after the time told: {answer.error}")
        refusals = value(cloud, 'shoal_admission_refused_total{reason="tenant_tokens"}')
        expect(refusals <= 4, f"{refusals} refusals: the retry time was not kept")


def test_full_kv_pool_refuses_at_once():
    """Four streams are promised nearly all of the pool: a fifth that may become long is told so, and later served."""
    with Site() as site:
        model = site.tiny_model(1)  # 8 KiB of KV for 32 tokens, whatever the other tests run on
        cloud = node(site, model, kv__max_mib=1, admit__wait_max_ms=5)
        edge = site.edge(model, cloud.address).start()
        hasty = site.edge(model, cloud.address, coop__reconnect_ms=100).start()
        for tries in range(1, 21):  # until it came while all four ran
            streams = Streams(edge.address, 4)
            answer = complete(hasty.address, "Once", "cloud", n=600, **NO_END)
            streams.finish()
            if answer.error is not None and "kv.max_mib" in answer.error["message"]:
                break
        expect(answer.error is not None and "kv.max_mib" in answer.error["message"], f"not refused: {answer.error}")
        expect(value(cloud, 'shoal_admission_refused_total{reason="kv"}') >= 1, "not counted")
        wait_until(lambda: value(cloud, "shoal_requests_running") == 0, 10, "idle")
        answer = complete(hasty.address, "Once", "cloud", n=600, **NO_END)
        expect(answer.error is None and len(answer.ids) == 600, f"not served when there is room: {answer.error}")
        return f"refused at try {tries}"


def service_manager_is_told(start):
    with Site() as site, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(site.file("notify"))
        manager.settimeout(20)
        models = site.models()
        os.environ.update(NOTIFY_SOCKET=site.file("notify"), WATCHDOG_USEC="400000")
        try:
            daemon = start(site, *models)
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]

        def told(word):
            while True:
                if manager.recv(256).decode().startswith(word):
                    return
        told("READY=1")
        told("WATCHDOG=1")
        told("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGHUP)
        told("RELOADING=1\nMONOTONIC_USEC=")
        told("READY=1")
        daemon.process.send_signal(signal.SIGTERM)
        told("STOPPING=1")
        expect(daemon.process.wait(30) == 0, f"exit {daemon.process.returncode}")


def test_service_manager_is_told():
    service_manager_is_told(lambda site, full, _: node(site, full))
    service_manager_is_told(lambda site, _, edge_model: site.edge(edge_model).start())


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
