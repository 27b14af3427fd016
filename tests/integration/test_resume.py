#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Streams whose connection is cut at every event in turn: the app sees each token once, in order."""
import json
import os
import socket
import subprocess
import threading

from harness import Site, binary, connect, expect, main, request, wait_until

QUESTION = "What does H40 mean on the Tapir 10?"
BODY = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24, "stream": True,
        "stream_options": {"include_usage": True}, "logit_bias": {"1": -100, "2": -100}}


def events(response, n=None):
    """(id, data) of n events, or of all to the end of the connection."""
    found, name = [], None
    while n is None or len(found) < n:
        line = response.readline()
        if not line:
            break
        line = line.decode("utf-8").rstrip("\r\n")
        if line.startswith("id: "):
            name = line[4:]
        elif line.startswith("data: "):
            found.append((name, line[6:]))
    return found


def open_stream(url, method="POST", path="/v1/chat/completions", last=None, body=None):
    connection = connect(url)
    connection.request(method, path, json.dumps(body) if body else None, {"Last-Event-ID": last} if last else {})
    return connection, connection.getresponse()


def said(found):
    """Ids of the tokens, text, and how many chunks said that it has finished."""
    ids, text, ends = [], "", 0
    for _, data in found:
        if data == "[DONE]":
            continue
        chunk = json.loads(data)
        ids += [token["id"] for token in chunk.get("shoal", {}).get("tokens", [])]
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            ends += choice["finish_reason"] is not None
    return ids, text, ends


def cut_everywhere(url, mode):
    body = {**BODY, "shoal": {"mode": mode}}
    _, response = open_stream(url, body=body)
    whole = events(response)
    expect(whole[-1][1] == "[DONE]" and len({name for name, _ in whole}) == len(whole), f"{whole[-3:]}")
    for n in range(1, len(whole)):
        connection, response = open_stream(url, body=body)
        part = events(response, n)
        connection.close()
        while part[-1][1] != "[DONE]":  # and each time it comes back, one event more
            connection, response = open_stream(url, "GET", "/v1/shoal/streams/x", last=part[-1][0])
            expect(response.status == 200, f"cut behind event {n}: {response.status}")
            part += events(response, None if len(part) > n + 3 else 1)
            connection.close()
        numbers = [int(name.split(":")[1]) for name, _ in part]
        expect(numbers == list(range(len(whole))), f"cut behind event {n}: {numbers}")
        expect(said(part) == said(whole), f"cut behind event {n}: {said(part)} is not {said(whole)}")
    return len(whole)


def test_stream_cut_at_every_event_loses_and_repeats_nothing():
    with Site() as site:
        full, edge = site.models()
        cloud = site.cloud(full).start()
        url = site.edge(edge, cloud.address).start().address
        n = cut_everywhere(url, "local") + cut_everywhere(url, "exact")
        return f"{n - 2} cuts"


class Cutter:
    """A proxy that closes a connection once the edge has sent so many bytes over it; the next one may pass more."""

    def __init__(self, url):
        host, port = url.removeprefix("http://").rsplit(":", 1)
        self.to = (host, int(port))
        self.left = []  # bytes that the next connections may pass, in order; none: all
        self.n_cut = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client, self.left.pop(0) if self.left else None), daemon=True).start()

    def serve(self, client, left):
        edge = socket.create_connection(self.to)
        threading.Thread(target=self.pump, args=(client, edge), daemon=True).start()
        while data := edge.recv(65536):
            if left is not None:
                data = data[:left]
                left -= len(data)
            client.sendall(data)
            if left == 0:
                self.n_cut += 1
                break
        for side in (client, edge):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @staticmethod
    def pump(client, edge):
        try:
            while data := client.recv(65536):
                edge.sendall(data)
            edge.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def ask(url, *options):
    command = [binary("shoal"), "ask", "--plain", "--url", url, "--temp", "0", "--max-tokens", "24", *options, QUESTION]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


def test_client_library_comes_back_by_itself():
    with Site() as site:
        _, edge = site.models()
        daemon = site.edge(edge, mode__default="local").start()
        proxy = Cutter(daemon.address)
        whole = ask(proxy.url)
        expect(whole.returncode == 0 and whole.stdout.strip(), whole.stderr)
        _, response = open_stream(daemon.address, body=BODY)
        n_bytes = sum(len(data) + 60 for _, data in events(response))
        for cut in range(1200, n_bytes, max((n_bytes - 1200) // 40, 1)):
            # The answer's connection is cut, the one that comes back too, in the middle of an event or between two.
            proxy.left = [cut, 900 + cut % 500]
            part = ask(proxy.url)
            expect(part.returncode == 0, f"cut after {cut} bytes: {part.stderr}")
            expect(part.stdout == whole.stdout, f"cut after {cut} bytes: {part.stdout!r} is not {whole.stdout!r}")
        expect(proxy.n_cut >= 30, f"{proxy.n_cut} cuts")
        return f"{proxy.n_cut} cuts"


def test_cancelled_call_ends_at_the_edge():
    with Site() as site:
        _, edge = site.models()
        url = site.edge(edge, mode__default="local", api__replay_ms="60000").start().address
        command = [binary("shoal"), "ask", "--plain", "--url", url, "--max-tokens", "900", "tell me everything"]
        running = lambda: json.loads(request(url, "GET", "/v1/shoal/status")[2])["requests"]["active"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        os.read(process.stdout.fileno(), 1)  # the first text is there
        process.send_signal(2)
        process.wait(10)
        process.stdout.close()
        wait_until(lambda: running() == 0, 5, "the end of the generation")


if __name__ == "__main__":
    main([test_stream_cut_at_every_event_loses_and_repeats_nothing, test_client_library_comes_back_by_itself,
          test_cancelled_call_ends_at_the_edge])
