#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the API promises beyond plain text, with real models: answers of a given form, and a link cut on demand."""
import json

from harness import SANITIZED, Site, complete, expect, main, request

SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["code", "severity", "parts"],
    "properties": {
        "code": {"type": "string", "minLength": 1, "maxLength": 6},
        "severity": {"enum": ["low", "high", None]},
        "parts": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        "note": {"type": ["string", "null"], "maxLength": 5},
    },
}


def ask(url, **fields):
    body = {"messages": [{"role": "user", "content": "What does H40 mean on the Tapir 10?"}], **fields}
    status, _, reply = request(url, "POST", "/v1/chat/completions", json.dumps(body))
    return status, json.loads(reply)


def fits_schema(value):
    return (set(SCHEMA["required"]) <= set(value) <= set(SCHEMA["properties"])
            and 1 <= len(value["code"]) <= 6 and value["severity"] in ("low", "high", None)
            and 1 <= len(value["parts"]) <= 3 and all(type(p) is int for p in value["parts"])
            and (value.get("note") is None or len(value["note"]) <= 5))


def test_answers_keep_the_form_asked_for():
    schema = {"type": "json_schema", "json_schema": {"name": "fault", "schema": SCHEMA}}
    with Site() as site:
        _, edge = site.models()
        url = site.edge(edge).start().address
        for seed in range(12):
            status, answer = ask(url, response_format=schema, temperature=(0, 0.7, 1.5)[seed % 3], seed=seed, max_tokens=200)
            expect(status == 200, answer)
            choice = answer["choices"][0]
            expect(choice["finish_reason"] == "stop", f"seed {seed}: cut off: {choice}")
            text = choice["message"]["content"]
            expect(fits_schema(json.loads(text)), f"seed {seed}: {text!r} is not of the schema")
        # The same text when streamed, and where a filter of the sampler is on.
        same = {"response_format": schema, "temperature": 1, "top_p": 0.5, "top_k": 5, "seed": 5, "max_tokens": 200}
        whole = ask(url, **same)[1]["choices"][0]["message"]["content"]
        streamed = complete(url, "What does H40 mean on the Tapir 10?", "local", chat=True, n=200,
                            **{k: v for k, v in same.items() if k != "max_tokens"})
        expect(streamed.text == whole and fits_schema(json.loads(whole)), f"{streamed.text!r} is not {whole!r}")
        # An object of any form may run into the limit; what is there begins one.
        status, answer = ask(url, response_format={"type": "json_object"}, seed=1, max_tokens=60)
        expect(status == 200 and answer["choices"][0]["message"]["content"].lstrip().startswith("{"), answer)


def test_logprobs_are_those_of_the_text():
    with Site() as site:
        _, edge = site.models()
        url = site.edge(edge, mode__default="local").start().address
        wanted = {"logprobs": True, "top_logprobs": 4, "temperature": 0, "max_tokens": 24}
        status, answer = ask(url, **wanted)
        expect(status == 200, answer)
        choice = answer["choices"][0]
        content = choice["logprobs"]["content"]
        if not SANITIZED:  # a random model says bytes that are no characters
            said = b"".join(bytes(one["bytes"]) for one in content)
            expect(said.decode("utf-8") == choice["message"]["content"], f"{said} is not {choice['message']['content']!r}")
        for one in content:
            tops = [top["logprob"] for top in one["top_logprobs"]]
            expect(len(tops) == 4 and tops == sorted(tops, reverse=True) and tops[0] == one["logprob"] <= 0,
                   f"at temperature 0 the likeliest is taken: {one}")
        streamed = []
        body = {"messages": [{"role": "user", "content": "What does H40 mean on the Tapir 10?"}], "stream": True, **wanted}
        _, _, reply = request(url, "POST", "/v1/chat/completions", json.dumps(body))
        for line in reply.decode("utf-8").splitlines():
            if line.startswith("data: {"):
                for part in json.loads(line[6:])["choices"]:
                    streamed += (part["logprobs"] or {"content": []})["content"]
        expect(streamed == content, "streamed logprobs differ from whole ones")
        # Of a sample drawn at a temperature, what is told is still the model's own probability.
        status, answer = ask(url, **{**wanted, "temperature": 1.5, "seed": 3, "top_logprobs": 20})
        for one in answer["choices"][0]["logprobs"]["content"]:
            same = [top["logprob"] for top in one["top_logprobs"] if top["bytes"] == one["bytes"]]
            expect(SANITIZED or not same or one["logprob"] in same, f"{one}")


TOOLS = [
    {"type": "function", "function": {"name": "open_ticket", "description": "Opens a ticket for a fault.", "parameters": {
        "type": "object", "additionalProperties": False, "required": ["code", "urgent"],
        "properties": {"code": {"type": "string", "minLength": 1, "maxLength": 6}, "urgent": {"type": "boolean"}}}}},
    {"type": "function", "function": {"name": "list_parts", "parameters": {
        "type": "object", "required": ["count"], "properties": {"count": {"enum": [1, 2, 3]}}}}},
]


def fits_tool(call):
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "list_parts":
        return list(arguments) == ["count"] and arguments["count"] in (1, 2, 3)
    return (call["function"]["name"] == "open_ticket" and set(arguments) == {"code", "urgent"}
            and 1 <= len(arguments["code"]) <= 6 and type(arguments["urgent"]) is bool)


def test_tools_are_called_with_arguments_of_their_schema():
    with Site() as site:
        _, edge = site.models()
        url = site.edge(edge, mode__default="local").start().address
        for seed in range(6):
            status, answer = ask(url, tools=TOOLS, tool_choice="required", temperature=(0, 1, 1.7)[seed % 3], seed=seed, max_tokens=200)
            expect(status == 200, answer)
            choice = answer["choices"][0]
            calls = choice["message"]["tool_calls"]
            expect(choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice)
            expect(len(calls) == 1 and fits_tool(calls[0]), f"seed {seed}: {calls}")
        named = {"type": "function", "function": {"name": "list_parts"}}
        _, answer = ask(url, tools=TOOLS, tool_choice=named, temperature=1, seed=3, max_tokens=200)
        called = answer["choices"][0]["message"]["tool_calls"][0]
        expect(called["function"]["name"] == "list_parts" and fits_tool(called), called)
        # A conversation that goes on behind a call, and a model that has not learnt tools and may answer.
        history = [{"role": "user", "content": "What does H40 mean on the Tapir 10?"}, answer["choices"][0]["message"],
                   {"role": "tool", "tool_call_id": called["id"], "content": "[]"}]
        status, _, reply = request(url, "POST", "/v1/chat/completions", json.dumps({"messages": history, "tools": TOOLS, "temperature": 0}))
        message = json.loads(reply)["choices"][0]["message"]
        expect(status == 200 and (message["content"] or fits_tool(message["tool_calls"][0])), reply)


def test_link_cut_in_mid_answer_costs_no_token():
    with Site() as site:
        full, edge = site.models()
        cloud = site.cloud(full).start()
        url = site.edge(edge, cloud.address, api__link_switch="true").start().address

        def switch(cut):
            status, _, reply = request(url, "POST", "/v1/shoal/link", json.dumps({"cut": cut}))
            expect(status == 200 and json.loads(reply) == {"cut": cut}, reply)

        def cut_at_three(answer):
            if len(answer.ids) == 3:
                switch(True)

        wanted = {"n": 40, "temperature": 0, "logit_bias": {"1": -100, "2": -100}}
        whole = complete(url, "Motor hot", "exact", **wanted)
        expect(whole.error is None and len(whole.ids) > 8, f"the whole answer: {whole.error}")
        degraded = complete(url, "Motor hot", "exact", on_event=cut_at_three,
                            shoal={"mode": "exact", "degrade": True, "reconnect_ms": 200}, **wanted)
        expect(degraded.error is None and degraded.finish, f"cut off: {degraded.error}")
        expect(degraded.ids[:3] == whole.ids[:3], "what was there before the cut changed")
        expect(len(degraded.ids) == degraded.usage["completion_tokens"], "tokens were lost")
        refused = complete(url, "Motor hot", "exact", shoal={"mode": "exact", "reconnect_ms": 200}, n=4)
        expect(refused.error and "switched off" in refused.error["message"], f"no reason given: {refused.error}")
        switch(False)
        again = complete(url, "Motor hot", "exact", **wanted)
        expect(again.ids == whole.ids, "the answer after the cut differs from the one before")


if __name__ == "__main__":
    main([test_answers_keep_the_form_asked_for, test_logprobs_are_those_of_the_text,
          test_tools_are_called_with_arguments_of_their_schema, test_link_cut_in_mid_answer_costs_no_token])
