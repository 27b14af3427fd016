#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Answers of a given form over the link, with real daemons: the cloud holds its tokens to the form too, so `exact` is
`cloud`, whatever is drafted and wherever the link is cut, and `assist` keeps the form through every hand-over."""
import json

from harness import SANITIZED, Site, complete, expect, main, questions, request

SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["code", "severity", "parts"],
    "properties": {
        "code": {"type": "string", "minLength": 1, "maxLength": 6},
        "severity": {"enum": ["low", "high", None]},
        "parts": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
    },
}
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "fault", "schema": SCHEMA}}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "open_ticket", "strict": True, "parameters": SCHEMA}}]}


def fits(text):
    value = json.loads(text)
    return (list(value) == SCHEMA["required"] and 1 <= len(value["code"]) <= 6 and value["severity"] in ("low", "high", None)
            and 1 <= len(value["parts"]) <= 3 and all(type(p) is int for p in value["parts"]))


def ask(url, case, mode, **more):
    """Every answer has to be whole, and of the schema; the sanitizers' random models may fill it with blanks to its limit."""
    prompt, temperature, seed = case
    answer = complete(url, prompt, mode, n=160, chat=True, temperature=temperature, top_p=0.8, seed=seed, **FORM, **more)
    cut = SANITIZED and answer.finish == "length"
    expect(answer.error is None and (cut or answer.finish == "stop"), f"{mode} {case}: {answer.error or answer.text}")
    expect(cut or fits(answer.text), f"{mode} {case}: {answer.text!r} is not of the schema")
    return answer


def cases(n):
    return [(p, (0, 0.8, 1.3)[i % 3], i + 1) for i, p in enumerate(questions(n, 9))]


def test_exact_equals_cloud_in_a_form():
    some = cases(3 if SANITIZED else 6)
    with Site(9) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address, coop__draft_tokens=6).start()
        reference = [ask(edge.address, case, "cloud") for case in some]
        edges = [edge] + [site.edge(edge_model, cloud.address, coop__draft_tokens=5, **faults).start()
                          for faults in [{"fault__flip_ratio": 0.3}] + [{"fault__cut_at": at} for at in (4, 9)]]
        judged, accepted, cuts = 0, 0, 0
        for one in edges:
            for case, told in zip(some, reference):
                for mode in ("exact", "cloud"):
                    answer = ask(one.address, case, mode)
                    expect(answer.ids == told.ids, f"{mode} {case}: {answer.text!r}, cloud {told.text!r}")
                    judged += answer.usage["shoal"]["drafted"]
                    accepted += answer.usage["shoal"]["accepted"]
                    cuts += answer.usage["shoal"]["reconnects"]
        expect(cuts >= 3 and accepted > 0, f"{cuts} cuts, {accepted} drafts stood")
        # The form changes what is said: without it another text comes.
        free = complete(edge.address, some[0][0], "cloud", n=160, chat=True, temperature=0, seed=1)
        expect(free.text != reference[0].text, free.text)
        return (f"{len(some)} objects, {len(edges)} edges, 0 differ; {accepted} of {judged} drafts stood, "
                f"{cuts} streams were cut")


def test_assist_keeps_the_form_through_hand_overs():
    some = cases(3 if SANITIZED else 6)
    with Site(10) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        tiers = set()
        for faults in ({}, {"fault__cut_at": 7}):
            edge = site.edge(edge_model, cloud.address, assist__rate=0.7, assist__span_tokens=2, **faults).start()
            for case in some:
                tiers |= set(ask(edge.address, case, "assist").tiers)
        expect({"edge", "cloud"} <= tiers, f"{tiers}")
        cloud.stop()
        expect(set(ask(edge.address, some[0], "assist").tiers) <= {"edge", "exit"}, "alone")
        # Where the request allows it, `exact` goes on alone too.
        ask(edge.address, some[0], "exact", shoal={"mode": "exact", "degrade": True, "reconnect_ms": 1})


def test_tools_are_called_over_the_link():
    with Site(11) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        url = site.edge(edge_model, cloud.address, coop__draft_tokens=6).start().address
        said = {}
        for mode in ("cloud", "exact", "assist", "local"):
            body = {"messages": [{"role": "user", "content": "What does H40 mean on the Tapir 10?"}], "seed": 4,
                    "max_tokens": 160, "shoal": {"mode": mode}, "tool_choice": "required", **TOOLS}
            code, _, data = request(url, "POST", "/v1/chat/completions", json.dumps(body))
            expect(code == 200, data)
            choice = json.loads(data)["choices"][0]
            cut = SANITIZED and choice["finish_reason"] == "length"
            expect(cut or choice["finish_reason"] == "tool_calls", choice)
            call = choice["message"]["tool_calls"][0]["function"]
            expect(call["name"] == "open_ticket" and (cut or fits(call["arguments"])), call)
            said[mode] = call["arguments"]
        expect(said["cloud"] == said["exact"], said)
        # With `auto` the text is free until it begins a call, on both sides.
        answers = [complete(url, "What does H40 mean on the Tapir 10?", mode, n=24, chat=True, temperature=0, **TOOLS)
                   for mode in ("cloud", "exact")]
        expect(answers[0].error is None and answers[0].ids == answers[1].ids, f"{answers[0].error} {answers[0].ids}")


def test_words_that_are_held_back_leave_in_no_form():
    with Site(12) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        url = site.edge(edge_model, cloud.address, redact__enabled="true").start().address
        body = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 60,
                "response_format": {"type": "json_schema", "json_schema": {"name": "who", "schema": {"enum": ["ann@example.org"]}}}}
        for mode, wanted in (("exact", 400), ("assist", 400), ("local", 200)):
            code, _, data = request(url, "POST", "/v1/chat/completions", json.dumps({**body, "shoal": {"mode": mode}}))
            expect(code == wanted, f"{mode}: {code} {data}")
            expect(code == 200 or "redact" in json.loads(data)["error"]["message"], data)


if __name__ == "__main__":
    main([test_exact_equals_cloud_in_a_form, test_assist_keeps_the_form_through_hand_overs,
          test_tools_are_called_over_the_link, test_words_that_are_held_back_leave_in_no_form])
