#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What OpenAI's clients depend on (docs/reference/openai.md), asked of a real edge byte by byte. The clients are in test_clients.py."""
import json
import math
import os
import re

from harness import SOURCE, Site, expect, main, request

KEY = {"Authorization": "Bearer k"}
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "What does H40 mean on the Tapir 10?"}]
SHAPE = {"message", "type", "param", "code"}


class Edge:
    def __init__(self, site):
        _, model = site.models()
        self.url = site.edge(model, mode__default="local", api__key="k").start().address

    def ask(self, path, body, headers=None, method="POST"):
        """(status, headers, body): what is not text becomes JSON, of an answer what was said too."""
        text = body if isinstance(body, (str, type(None))) else json.dumps(body)
        status, heads, reply = request(self.url, method, path, text, {**(KEY if headers is None else headers)})
        return status, heads, reply.decode()

    def text(self, path, **fields):
        status, _, reply = self.ask(path, {"temperature": 0, "max_tokens": 6, **fields})
        expect(status == 200, f"{fields}: {reply}")
        choice = json.loads(reply)["choices"][0]
        return choice["message"]["content"] if path == CHAT else choice["text"]


def test_streams_have_the_form_that_clients_read():
    with Site() as site:
        edge = Edge(site)
        for path, body, kind in ((CHAT, {"messages": MESSAGES}, "chatcmpl-"), (COMPLETION, {"prompt": "Motor"}, "cmpl-")):
            for usage in (False, True):
                status, heads, reply = edge.ask(path, {**body, "stream": True, "temperature": 0, "max_tokens": 5,
                                                       **({"stream_options": {"include_usage": True}} if usage else {})})
                expect(status == 200 and heads["Content-Type"].startswith("text/event-stream"), f"{status} {heads}")
                lines = [line[6:] for line in reply.splitlines() if line.startswith("data: ")]
                expect(lines[-1] == "[DONE]" and lines.count("[DONE]") == 1, reply[-300:])
                chunks = [json.loads(line) for line in lines[:-1]]
                expect(len({c["id"] for c in chunks}) == 1 and chunks[0]["id"].startswith(kind), f"{chunks[0]}")
                said = [c["choices"][0] for c in chunks if c["choices"]]
                expect([s["finish_reason"] for s in said if s["finish_reason"]] == [said[-1]["finish_reason"]], reply)
                if path == CHAT:
                    expect(said[0]["delta"] == {"role": "assistant", "content": ""}, f"{said[0]}")
                    expect(not any("role" in s["delta"] for s in said[1:]), reply)
                if usage:
                    expect(chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0, f"{chunks[-1]}")
                    expect(all(c["choices"] and c["usage"] is None for c in chunks[:-1]), reply)
                else:
                    expect(all(c["choices"] for c in chunks) and not any(c.get("usage") for c in chunks[:-1]), reply)


def test_errors_have_one_shape_and_come_before_the_stream():
    with Site() as site:
        edge = Edge(site)
        long = [{"role": "user", "content": "a b c " * 2000}]
        for stream in (False, True):
            for path, body, headers, status, code, param in (
                    (CHAT, {"messages": MESSAGES, "model": "nobody"}, None, 404, "model_not_found", "model"),
                    (CHAT, {"messages": long}, None, 400, "context_length_exceeded", "messages"),
                    (CHAT, {"messages": MESSAGES, "n": 2}, None, 400, "unsupported_parameter", "n"),
                    (CHAT, {"messages": MESSAGES, "frobnicate": 1}, None, 400, "unknown_parameter", "frobnicate"),
                    (CHAT, {"messages": MESSAGES, "response_format": {"type": "xml"}}, None, 400, "invalid_value", "response_format"),
                    (COMPLETION, {"prompt": ["a", "b"]}, None, 400, "unsupported_value", "prompt"),
                    (CHAT, {"messages": MESSAGES}, {}, 401, "invalid_api_key", None)):
                got, heads, reply = edge.ask(path, {**body, "stream": stream}, headers)
                expect(got == status and heads["Content-Type"] == "application/json", f"{body}: {got} {heads} {reply}")
                error = json.loads(reply)["error"]
                expect(set(error) == SHAPE and error["message"] and error["type"], reply)
                expect((error["code"], error["param"]) == (code, param), reply)
        for method, path, body, headers, status, code in (
                ("POST", CHAT, "{not json", {}, 401, "invalid_api_key"), ("POST", CHAT, "{not json", None, 400, "invalid_json"),
                ("POST", "/v1/embeddings", "{}", None, 404, "not_found"), ("GET", "/v1/nothing", None, None, 404, "not_found"),
                ("GET", "/v1/models/nobody", None, None, 404, "model_not_found"),
                ("GET", CHAT, None, None, 405, "method_not_allowed")):
            got, _, reply = edge.ask(path, body, headers, method)
            error = json.loads(reply)["error"]
            expect((got, error["code"], set(error)) == (status, code, SHAPE), f"{method} {path}: {got} {reply}")


def test_inputs_of_the_same_meaning_give_the_same_text():
    with Site() as site:
        edge = Edge(site)
        plain = edge.text(CHAT, messages=MESSAGES)
        question = MESSAGES[0]["content"]
        parts = [{"type": "text", "text": question[:9]}, {"type": "text", "text": question[9:]}]
        nothing = dict.fromkeys(("stop", "seed", "top_p", "tools", "response_format", "n", "stream", "logit_bias", "logprobs"))
        for fields in ({"messages": [{"role": "user", "content": parts}]}, {"messages": MESSAGES, **nothing},
                       {"messages": MESSAGES, "max_completion_tokens": 6}, {"messages": MESSAGES, "user": "u", "metadata": {"a": "b"}},
                       {"messages": MESSAGES, "max_tokens": None, "max_completion_tokens": 6}):
            expect(edge.text(CHAT, **fields) == plain, f"{fields}: another text than {plain!r}")
        expect(edge.text(COMPLETION, prompt=["Motor"]) == edge.text(COMPLETION, prompt="Motor"), "a list of one prompt")
        status, _, reply = edge.ask(CHAT, {"messages": MESSAGES, "max_tokens": 5, "max_completion_tokens": 6})
        expect(status == 400 and "contradict" in reply, reply)
        picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
        status, _, reply = edge.ask(CHAT, {"messages": [{"role": "user", "content": picture}]})
        expect(status == 400 and json.loads(reply)["error"]["param"] == "messages[0].content", reply)


def test_a_request_sent_twice_gives_the_same():
    with Site() as site:
        edge = Edge(site)
        for shoal in ({}, {"shoal": {"session": "one"}}):
            said = {edge.text(CHAT, messages=MESSAGES, temperature=1, seed=7, max_tokens=12, **shoal) for _ in range(3)}
            expect(len(said) == 1, f"{shoal}: {said}")


def test_confidence_is_the_logprob_in_another_form():
    with Site() as site:
        edge = Edge(site)
        body = {"prompt": "The pump", "max_tokens": 16, "temperature": 1, "seed": 5, "logprobs": 0, "shoal": {"tokens": True}}
        reply = json.loads(edge.ask(COMPLETION, body)[2])
        told = reply["choices"][0]["logprobs"]["token_logprobs"]
        tokens = reply["shoal"]["tokens"]
        expect(len(told) == len(tokens) > 0, f"{reply}")
        for one, token in zip(told, tokens):
            expect(abs(math.exp(one) - token["confidence"]) < 1e-3, f"{math.exp(one)} is not {token}")


def test_every_field_is_told_here():
    """The page's list of fields is the table that the edge has."""
    with open(os.path.join(SOURCE, "edge/http/api_fields.c"), encoding="utf-8") as f:
        known = set(re.findall(r'^    \{"(\w+)", [CM |]+, \w+\},', f.read(), re.M))
    with open(os.path.join(SOURCE, "docs/reference/openai.md"), encoding="utf-8") as f:
        told = set(re.findall(r"`(\w+)`", f.read().split("## Fields of a request")[1])) - {"local", "none"}
    expect(len(known) > 30 and told == known, f"not told: {sorted(known - told)}; not there: {sorted(told - known)}")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
