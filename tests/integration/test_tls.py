#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The edge's API under TLS, as OpenSSL, curl and Python speak it: answers, new certificates, those that never finish."""
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess

from harness import SOURCE, Site, binary, expect, main, run, wait_until

CHAT = json.dumps({"messages": [{"role": "user", "content": "What does H40 mean on the Tapir 10?"}], "max_tokens": 8,
                   "temperature": 0, "stream": True})


def secure_edge(site, **settings):
    """An edge whose certificate and key lie where a test may replace them."""
    for kind in ("pem", "key"):
        shutil.copy(site.file(f"certs/cloud.{kind}"), site.file(f"api.{kind}"))
    _, edge = site.models()
    daemon = site.edge(edge, mode__default="local", api__tls_cert=site.file("api.pem"), api__tls_key=site.file("api.key"),
                       **settings).start()
    expect(daemon.address.startswith("https://127.0.0.1:"), daemon.address)
    return daemon, int(daemon.address.rsplit(":", 1)[1])


def ask(port, ca, method, path, body=None):
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metric(port, ca, name):
    lines = ask(port, ca, "GET", "/metrics")[1].splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def test_answers_under_tls():
    with Site() as site:
        _, port = secure_edge(site)
        ca = site.file("certs/ca.pem")
        status, text = ask(port, ca, "POST", "/v1/chat/completions", CHAT)
        expect(status == 200 and text.rstrip().endswith("data: [DONE]"), f"{status}: {text[-200:]}")
        done = run("curl", "-sS", "--cacert", ca, "--tlsv1.2", "--tls-max", "1.2", "-w", " %{http_version}",
                   f"https://localhost:{port}/health")
        expect(done.stdout.endswith(" 1.1"), done.stdout)
        done = run("curl", "-sS", "--cacert", ca, f"https://localhost:{port}/v1/chat/completions", "-H",
                   "Content-Type: application/json", "-d", CHAT)
        expect(done.stdout.rstrip().endswith("data: [DONE]"), done.stdout[-200:])
        done = run("curl", "-sS", f"http://localhost:{port}/health")
        expect("tls_required" in done.stdout, done.stdout)
        refused = subprocess.run(["curl", "-sS", f"https://localhost:{port}/health"], capture_output=True, text=True,
                                 timeout=60, check=False)
        expect(refused.returncode == 60, f"an unknown authority was believed: {refused}")
        expect(metric(port, ca, "shoal_http_tls_broken_total") >= 2, "what was no TLS is not counted")


def test_sighup_takes_a_new_pair_or_keeps_the_old():
    with Site() as site:
        edge, port = secure_edge(site)
        ca, other = site.file("certs/ca.pem"), site.file("other")
        ends = metric(port, ca, "shoal_certificate_expiry_timestamp_seconds")
        expect(ends > 1e9, f"{ends}")
        run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), other)
        shutil.copy(os.path.join(other, "cloud.pem"), site.file("api.pem"))
        edge.process.send_signal(signal.SIGHUP)
        wait_until(lambda: metric(port, ca, "shoal_config_reload_failures_total") == 1, what="half a pair refused")
        edge.says("api.tls_key")
        shutil.copy(os.path.join(other, "cloud.key"), site.file("api.key"))
        edge.process.send_signal(signal.SIGHUP)

        def taken():
            try:
                return ask(port, os.path.join(other, "ca.pem"), "GET", "/health")[0] == 200
            except ssl.SSLCertVerificationError:
                return False
        wait_until(taken, what="the new certificate")
        status, _ = ask(port, os.path.join(other, "ca.pem"), "POST", "/v1/chat/completions", CHAT)
        expect(status == 200, f"{status}")


def test_handshakes_that_never_end():
    """Half a thousand clients begin one and stop: others are answered meanwhile, and all of those are ended. An instrumented
    edge makes signatures for longer than the limit: who waits for it meanwhile is not cut off."""
    with Site() as site:
        _, port = secure_edge(site, http__header_ms=2000)
        ca = site.file("certs/ca.pem")
        context = ssl.create_default_context(cafile=ca)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        except ssl.SSLWantReadError:
            pass
        hello = outgoing.read()
        sockets = []
        for i in range(500):
            s = socket.create_connection(("127.0.0.1", port))
            s.sendall(hello[:len(hello) * (i % 5) // 4])  # nothing, parts, and the whole hello without what follows
            sockets.append(s)
        expect(ask(port, ca, "POST", "/v1/chat/completions", CHAT)[0] == 200, "nobody else is answered")

        def left():
            return metric(port, ca, "shoal_http_connections")
        wait_until(lambda: left() == 1, 30, "the end of all of them")
        for s in sockets:
            s.close()
        return f"{len(sockets)} ended"


def test_settings_are_checked():
    with Site() as site:
        _, edge = site.models()
        base = [binary("shoal-edge"), "--check-config", "--set", f"model.path={edge}"]
        pair = {"cert": site.file("certs/cloud.pem"), "key": site.file("certs/cloud.key"), "other": site.file("certs/edge.key")}
        run(*base, "--set", f"api.tls_cert={pair['cert']}", "--set", f"api.tls_key={pair['key']}")
        for settings, named in (({"api.tls_cert": pair["cert"]}, "api.tls_key"), ({"api.tls_key": pair["key"]}, "api.tls_cert"),
                                ({"api.tls_cert": pair["cert"], "api.tls_key": pair["other"]}, "api.tls_key")):
            given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            done = run(*base, *given, check=False)
            expect(done.returncode == 1 and named in done.stderr, f"{settings}: {done}")


if __name__ == "__main__":
    main([test_answers_under_tls, test_sighup_takes_a_new_pair_or_keeps_the_old, test_handshakes_that_never_end,
          test_settings_are_checked])
