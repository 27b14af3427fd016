#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input and bad days: a clear answer each time, and the daemons serve on."""
import json
import os
import socket
import subprocess
import time

from harness import (SOURCE, Site, binary, complete, connect, expect, free_port, main, request, run, wait_until)


def expect_serving(url):
    answer = complete(url, "Once upon", "local", n=4)
    expect(answer.error is None and len(answer.ids) >= 1, f"the edge no longer serves: {answer.error}")


def expect_error(reply, status, *words):
    code, _, body = reply
    expect(code == status, f"status {code}, expected {status}: {body[:300]}")
    error = json.loads(body)["error"]
    expect(set(error) >= {"message", "type", "param", "code"}, f"not an OpenAI error object: {error}")
    for word in words:
        expect(word in error["message"] or word == error["code"], f"{word!r} is not in {error}")


def post(url, body, path="/v1/completions"):
    data = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return request(url, "POST", path, data, {"Content-Type": "application/json"})


def test_http_bad_requests_get_clear_errors():
    with Site() as site:
        full, _ = site.models()
        url = site.edge(full).start().address
        expect_error(post(url, "{bad json"), 400)
        expect_error(post(url, b"\xff\xfe{}"), 400)
        expect_error(post(url, {"prompt": "a", "model": "nobody"}), 404, "model_not_found")
        expect_error(post(url, {"prompt": "a", "max_tokens": 10**6}), 400, "context_length_exceeded")
        expect_error(post(url, {"prompt": "word " * 5000}), 400)
        for field, value in (("temperature", -1), ("temperature", 11), ("top_p", 2), ("n", 3), ("max_tokens", -5),
                             ("max_tokens", 2**63), ("stop", {}), ("seed", "x"), ("presence_penalty", 9),
                             ("logit_bias", {"abc": 1}), ("stream", "yes"), ("prompt", 7)):
            expect_error(post(url, {"prompt": "a", field: value}), 400)
        expect_error(post(url, {"messages": []}, "/v1/chat/completions"), 400)
        expect_error(post(url, {"messages": [{"content": "x"}]}, "/v1/chat/completions"), 400)
        expect_error(post(url, {"prompt": "a", "shoal": {"mode": "exact"}}), 503)
        expect_error(request(url, "GET", "/v1/nothing"), 404)
        expect_error(request(url, "DELETE", "/v1/models"), 405)
        expect_serving(url)


def test_http_huge_body_is_refused_early():
    with Site() as site:
        full, _ = site.models()
        url = site.edge(full).start().address
        host, port = url.removeprefix("http://").rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as s:
            s.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {64 << 20}\r\n\r\n".encode())
            s.settimeout(10)
            reply = s.recv(4096)
            expect(b" 413 " in reply.split(b"\r\n")[0], f"64 MiB body: {reply[:200]}")
        expect_serving(url)


def test_http_body_whose_memory_ends_in_a_token():
    """Lists that use the memory of a body up to where a long string or number grows: refused, and nothing is overwritten."""
    with Site() as site:
        full, _ = site.models()
        url = site.edge(full).start().address
        refused = 0
        for n in range(232000, 248000, 4000):
            for last in ('"' + "a" * 700000 + '"', "0." + "1" * 500000):
                body = '{"prompt":[' + "0," * 900000 + "[" + "0," * n + "0]," + last + "]}"
                status, _, reply = request(url, "POST", "/v1/completions", body, {"Content-Type": "application/json"}, timeout=60)
                expect(status in (400, 413), f"{n} and {last[:3]}: {status} {reply[:200]}")
                refused += status == 413
        expect(2 <= refused <= 7, f"{refused} of 8 met the limit: none shows what is at it")
        expect_serving(url)
        return f"{refused} of 8 over the limit"


def test_http_client_gone_frees_its_request():
    with Site() as site:
        full, _ = site.models()
        url = site.edge(full).start().address
        for _ in range(20):
            connection = connect(url)
            connection.request("POST", "/v1/completions",
                               json.dumps({"prompt": "Once", "max_tokens": 400, "stream": True, "temperature": 1.0}),
                               {"Content-Type": "application/json"})
            connection.getresponse().read(100)
            connection.close()

        def idle():
            status = json.loads(request(url, "GET", "/v1/shoal/status")[2])
            return "0" == str(find(status, "active"))
        wait_until(idle, 20, "the requests of clients that are gone end")
        expect_serving(url)


def find(tree, key):
    """The first value under a key that contains the word, anywhere in the tree."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if key in name and not isinstance(value, (dict, list)):
                return value
            inner = find(value, key)
            if inner is not None:
                return inner
    return None


def test_models_health_metrics_answer():
    with Site() as site:
        full, _ = site.models()
        url = site.edge(full).start().address
        status, _, body = request(url, "GET", "/v1/models")
        listed = json.loads(body)
        expect(status == 200 and listed["object"] == "list" and len(listed["data"]) == 1, body)
        status, _, body = request(url, "GET", "/v1/models/" + listed["data"][0]["id"])
        expect(status == 200 and json.loads(body)["object"] == "model", body)
        expect(request(url, "GET", "/health")[0] == 200, "health")
        expect(request(url, "GET", "/ready")[0] == 200, "ready")
        expect_serving(url)
        metrics = request(url, "GET", "/metrics")[2].decode()
        for name in ("shoal_tokens_total", "shoal_requests_running", "shoal_requests_waiting", "shoal_kv_cache_usage_ratio"):
            expect(name in metrics, f"{name} is not in /metrics")


def test_local_mode_opens_no_connection():
    """R5: the configured cloud address never sees a byte of a local request."""
    with Site() as site:
        full, _ = site.models()
        with socket.socket() as trap:
            trap.bind(("127.0.0.1", 0))
            trap.listen()
            edge = site.edge(full).start()
            expect_serving(edge.address)
            trap.settimeout(0.2)
            try:
                trap.accept()
                raise AssertionError("somebody connected")
            except socket.timeout:
                pass


def test_other_tokenizer_is_refused_with_both_hashes():
    with Site() as site:
        ours, theirs = site.tiny_model(1), site.file("theirs.gguf")
        with open(ours, "rb") as f, open(theirs, "wb") as g:
            g.write(f.read().replace(b"</s>", b"</t>"))
        hashes = [json.loads(run(binary("shoal-forge"), "inspect", "-m", m, "--json").stdout)["tokenizer_hash"] for m in (ours, theirs)]
        expect(hashes[0] != hashes[1], "one tokenizer")
        cloud = site.cloud(theirs).start()
        edge = site.edge(ours, cloud.address).start()
        answer = complete(edge.address, "Once", "exact", n=4)
        expect(answer.error is not None, "a foreign tokenizer was accepted")
        message = answer.error["message"]
        expect(hashes[0][:8] in message and hashes[1][:8] in message, f"both hashes are not named: {message}")
        expect_serving(edge.address)


def test_cloud_refuses_strangers():
    """No client certificate, or one of another authority: nothing is served, and the cloud goes on."""
    with Site() as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        run(os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "deploy/certs/make-dev-certs"),
            site.file("other"))
        stranger = site.edge(edge_model, cloud.address, coop__reconnect_ms=500,
                             cloud__cert=site.file("other/edge.pem"), cloud__key=site.file("other/edge.key")).start()
        answer = complete(stranger.address, "Once", "exact", n=4, timeout=30)
        expect(answer.error is not None, "a certificate of another authority was accepted")
        host, port = cloud.address.rsplit(":", 1)
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", os.urandom(512)):
            with socket.create_connection((host, int(port)), 5) as s:
                s.sendall(junk)
        friend = site.edge(edge_model, cloud.address).start()
        answer = complete(friend.address, "Once", "exact", n=4)
        expect(answer.error is None, f"the cloud no longer serves: {answer.error}")


def test_cloud_unreachable_fails_clearly_or_degrades():
    with Site() as site:
        full, _ = site.models()
        edge = site.edge(full, f"127.0.0.1:{free_port()}", coop__reconnect_ms=400).start()
        started = time.monotonic()
        answer = complete(edge.address, "Once", "exact", n=4)
        expect(answer.error is not None and time.monotonic() - started < 10, "no clear error")
        degraded = complete(edge.address, "Once", "exact", n=4, shoal={"mode": "exact", "degrade": True})
        expect(degraded.error is None and set(degraded.tiers) == {"edge"}, f"not degraded: {degraded.error}")
        local = complete(edge.address, "Once", "local", n=4)
        expect(local.ids == degraded.ids or local.error is None, "local")


def test_stop_strings_and_usage_add_up():
    with Site() as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address).start()
        for seed in range(5, 45):
            whole = complete(edge.address, "Once upon a time", "cloud", n=40, temperature=0.9, seed=seed)
            if len(whole.text) > 12:
                break
        expect(len(whole.text) > 12, "a text to cut")
        middle = whole.text[5:9]
        for mode in ("cloud", "exact"):
            cut = complete(edge.address, "Once upon a time", mode, n=40, temperature=0.9, seed=seed, stop=[middle])
            at = whole.text.index(middle)
            expect(cut.text == whole.text[:at] and cut.finish == "stop", f"{mode}: {cut.text!r} is not {whole.text[:at]!r}")
            tiers = cut.usage["shoal"]["tiers"]
            expect(sum(tiers.values()) == cut.usage["completion_tokens"] == len(cut.ids), f"{tiers} {cut.usage}")


def test_sigterm_drains_and_exits_zero():
    with Site() as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address).start()
        expect_serving(edge.address)
        edge.stop()
        cloud.stop()


def test_broken_models_and_usage_exit_with_reason():
    with Site() as site:
        full, _ = site.models()
        data = open(full, "rb").read()
        cut = site.file("cut.gguf")
        for size in (0, 3, 4, 24, 100, len(data) // 2, len(data) - 1):
            with open(cut, "wb") as f:
                f.write(data[:size])
            for command in ((binary("shoal-forge"), "inspect", "-m", cut, "--json"),
                            (binary("shoal-edge"), "--set", f"model.path={cut}"),
                            (binary("shoal-cloud"), "--set", f"model.path={cut}")):
                done = run(*command, check=False, timeout=30)
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                expect(done.returncode == 1 and lines, f"{command[0]} on {size} bytes: {done.returncode} {done.stderr}")
        for name in ("shoal-forge", "shoal-edge", "shoal-cloud", "shoal"):
            expect(run(binary(name), "--help").stdout.strip(), f"{name} --help")
            expect(run(binary(name), "--no-such-option", check=False).returncode == 2, f"{name} usage")
        for name in ("shoal-edge", "shoal-cloud"):
            dump = run(binary(name), "--dump-config").stdout
            with open(os.path.join(SOURCE, "configs", name.removeprefix("shoal-") + ".yaml"), encoding="utf-8") as f:
                expect(f.read() == dump, f"configs/ differs from {name} --dump-config: write it again")
            path = site.file(name + ".yaml")
            with open(path, "w", encoding="utf-8") as f:
                f.write(dump)
            run(binary(name), "--config", path, "--check-config")
            bad = run(binary(name), "--set", "no.such.key=1", "--check-config", check=False)
            expect(bad.returncode in (1, 2) and "no.such.key" in bad.stderr, f"{name}: {bad.stderr}")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
