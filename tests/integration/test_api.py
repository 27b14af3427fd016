#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the API promises beyond plain text, with real models: answers of a given form, and a link cut on demand."""
import json

from harness import Site, complete, expect, main, request

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
    main([test_answers_keep_the_form_asked_for, test_link_cut_in_mid_answer_costs_no_token])
