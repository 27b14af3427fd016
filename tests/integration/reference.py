#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/reference, made from what the programs themselves say: --help, /metrics, shoal.h and the errors in
the sources. Nobody writes them by hand.

    tests/integration/reference.py --write      after a change of a key, a metric, an error or the library
"""
import os
import re
import sys
import textwrap

from harness import SOURCE, Site, binary, expect, request, run

FOLDER = os.path.join(SOURCE, "docs/reference")
MADE = "<!-- Made by tests/integration/reference.py --write. Do not edit. -->\n"
TEXTS_MAX = 3  # of one error


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


# --- settings ----------------------------------------------------------------------------------------------------------


def keys(program):
    """[(key, help, type and bounds, default, reload)] from --help."""
    text = run(binary(program), "--help").stdout
    found = []
    for key, body in re.findall(r"^  (\S+)  \(SHOAL_\w+\)\n((?: {8}.*\n?)+)", text, re.M):
        line = " ".join(body.split())
        m = re.fullmatch(r"(.*?[.!?]\"?) ((?:text,|whole number,|number,|true or false|one of) ?.*?); default: (.*?);? "
                         r"(needs a restart|taken over on reload)\.", line)
        expect(m, f"{program} --help: {key}: not understood: {line}")
        found.append((key, m[1], m[2].removesuffix(";"), m[3].removesuffix(";"), m[4] == "taken over on reload"))
    expect(len(found) > 30, f"{program} --help has {len(found)} keys")
    return found


def settings_page(program, file):
    out = [MADE, f"# Settings of `{program}`\n",
           f"Every key can stand in the file of `--config`, in the environment (`SHOAL_KV_MAX_MIB` for `kv.max_mib`) or after\n"
           f"`--set`; later ones win in that order. `{program} --dump-config` prints them as [a file](../../configs/{file}), "
           "`--check-config`\nsays whether a file is valid. Keys marked with HUP are taken over on SIGHUP, the others need a "
           "restart.\n"]
    rows = keys(program)
    for section in dict.fromkeys(k.split(".")[0] for k, *_ in rows):
        out.append(f"## {section}\n")
        out.append(table(("key", "default", "values", "what"),
                         [(f"`{k}`", f"`{default}`" if default != "empty" else "empty", cell(bounds),
                           cell(what) + (" HUP." if reload else ""))
                          for k, what, bounds, default, reload in rows if k.split(".")[0] == section]))
    return "\n".join(out)


# --- metrics -----------------------------------------------------------------------------------------------------------


def metrics_told():
    """{program: text of /metrics}, of daemons with everything on that tells a metric."""
    with Site() as site:
        full, draft = site.models()
        os.mkdir(site.file("bundles"))
        with open(site.file("bundles/rollout"), "w", encoding="ascii"):
            pass
        run("openssl", "genpkey", "-algorithm", "ed25519", "-out", site.file("maker.key"))
        run("openssl", "pkey", "-in", site.file("maker.key"), "-pubout", "-out", site.file("maker.pem"))
        cloud = site.cloud(full, http__address="127.0.0.1:0", store__kind="memory", edge_model__path=draft,
                           fleet__folder=site.file("bundles")).start()
        url = cloud.process.stdout.readline()[len("http: "):].strip()
        budgets = {f"budget__{what}_per_{per}": 1000 for what in ("cloud_tokens", "uplink_kib", "energy_j") for per in ("hour", "day", "month")}
        with open(site.file("watts"), "w", encoding="ascii") as f:
            f.write("5")
        edge = site.edge(draft, cloud.address, energy__meter="power_w", energy__path=site.file("watts"), listen__unix=site.file("api"), api__tls_cert=site.file("certs/cloud.pem"),
                         api__tls_key=site.file("certs/cloud.key"), bundle__folder=site.file("state"), bundle__trust=site.file("maker.pem"),
                         **budgets)
        edge.start()
        return {"shoal-cloud": request(url, "GET", "/metrics")[2].decode(),
                "shoal-edge": run("curl", "-sf", "--unix-socket", site.file("api"), "http://localhost/metrics").stdout}


def metrics_page():
    out = [MADE, "# Metrics\n",
           "What both daemons tell on `/metrics`, in Prometheus' text format. No label comes from a request. Some are there only\n"
           "while what they count is configured: a store, a budget, a meter of\n"
           "energy, a certificate, a model of edges, bundles.\n"
           "What to look at first: [OPERATIONS](../OPERATIONS.md), the alerts and the dashboard in `deploy/monitoring`.\n"]
    for program, text in metrics_told().items():
        rows = []
        for name, what in sorted(re.findall(r"^# HELP (\S+) (.*)$", text, re.M)):
            kind = re.search(rf"^# TYPE {name} (\w+)$", text, re.M)[1]
            labels = {}
            for inside in re.findall(rf"^{name}(?:_bucket)?\{{(.*)\}} ", text, re.M):
                for label, value in re.findall(r'(\w+)="([^"]*)"', inside):
                    labels.setdefault(label, []).append(value)
            labels.pop("le", None)
            told = "; ".join(f"`{label}`: " + ", ".join(dict.fromkeys(values)) for label, values in labels.items())
            rows.append((f"`{name}`", kind, cell(told) or "-", cell(what)))
        out.append(f"## {program}\n\n" + table(("name", "kind", "labels", "what"), rows))
    return "\n".join(out)


# --- errors ------------------------------------------------------------------------------------------------------------


def arguments(text, at):
    """Of a C call whose opening bracket is at text[at]: its arguments as they are written."""
    found, depth, quoted, begin, i = [], 0, False, at + 1, at
    while i < len(text):
        c = text[i]
        if quoted:
            i += c == "\\"
            quoted = c != '"'
        elif c == '"':
            quoted = True
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth == 0:
                return [*found, text[begin:i].strip()]
        elif c == "," and depth == 1:
            found.append(text[begin:i].strip())
            begin = i + 1
        i += 1
    raise AssertionError("a call without an end")


def literals(text):
    """The strings that an argument may be: one, or those of c ? "a" : "b"."""
    text = re.sub(r'%"\s*PRI\w+', '%u"', text)
    strings = re.findall(r'((?:"(?:\\.|[^"\\])*"\s*)+)', text)
    return ["".join(re.findall(r'"((?:\\.|[^"\\])*)"', s)).replace('\\"', '"').replace("\\n", " ") for s in strings]


def http_errors():
    """{(status, code): texts} as the sources write them."""
    found = {}

    def add(status, code, said):
        texts = found.setdefault((int(status), code), [])
        for shown in (re.sub(r"%[-0-9.*]*(?:ll|l|z)?[a-zA-Z]", "…", text) for text in said):
            if shown.replace("…", "").strip(" :,") and shown not in texts:
                texts.append(shown)
    for folder in ("edge/http", "protocol/http"):
        for name in sorted(n for n in os.listdir(os.path.join(SOURCE, folder)) if n.endswith(".c")):
            with open(os.path.join(SOURCE, folder, name), encoding="utf-8") as f:
                text = f.read()
            for m in re.finditer(r"\b(shoal_http_error_set|refuse|fail_late)\(", text):
                args = arguments(text, m.end() - 1)
                if m[1] == "shoal_http_error_set":
                    args = [args[1], *args[3:]]
                elif m[1] == "refuse":
                    args = args[1:] if args[0] == "conn" else []
                else:
                    args = args[1:]
                if len(args) >= 3 and args[0].isdigit() and args[1].startswith('"'):
                    add(args[0], literals(args[1])[0], literals(args[2]))
    with open(os.path.join(SOURCE, "protocol/http/error.c"), encoding="utf-8") as f:
        rows = re.findall(r'\{SHOAL_(\w+), (\d+), "(\w+)"\}', f.read())
    with open(os.path.join(SOURCE, "common/base/status.h"), encoding="utf-8") as f:
        texts = dict(re.findall(r'X\(SHOAL_(\w+), +-?\d+, "([^"]*)"\)', f.read()))
    expect(len(rows) >= 10 and len(found) >= 20, f"{len(rows)} rows and {len(found)} errors were found")
    for status, http, code in rows:
        add(http, code, [f"of the engine or the link: {texts[status]}"])
    return found


def errors_page():
    rows = [(str(status), f"`{code}`", "<br>".join(cell(t) for t in texts[:TEXTS_MAX]) + ("<br>and others" if len(texts) > TEXTS_MAX else ""))
            for (status, code), texts in sorted(http_errors().items())]
    with open(os.path.join(SOURCE, "edge/client/shoal.h"), encoding="utf-8") as f:
        codes = re.findall(r"^ {4}(SHOAL_CLIENT_(?:OK|E_\w+)) = (-?\d+),? *(?:/\* (.*?) \*/)?$", f.read(), re.M)
    expect(len(codes) >= 11, f"{len(codes)} codes of the library were found")
    return "\n".join([
        MADE, "# Errors\n",
        "A request that fails gets `{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`, in OpenAI's shape. The message says what is\n"
        "wrong, the limit, and what to do; programs look at the status and at `code`. 429 and 503 carry `Retry-After`. In a stream\n"
        "that has begun the same object comes as an `error` event, and no `[DONE]`. `type` is `authentication_error` with 401,\n"
        "`rate_limit_error` with 429, else `invalid_request_error` below 500 and `server_error` from there on. What cloud and edge say\n"
        "to each other: [SPEC](../../protocol/SPEC.md).\n",
        "## HTTP API of `shoal-edge`\n", table(("status", "code", "what is said, … for values"), rows),
        "## libshoal\n", table(("code", "value", "when"), [(f"`{c}`", v, cell(w or "success")) for c, v, w in codes])])


# --- C API -------------------------------------------------------------------------------------------------------------


def prose(comment):
    text = re.sub(r"^ ?\* ?", "", comment.strip().removeprefix("/*").removesuffix("*/").strip(), flags=re.M)
    parts = re.split(r"\n\s*\n", text)
    return "\n\n".join("\n".join(textwrap.wrap(" ".join(p.split()), 118, break_on_hyphens=False, break_long_words=False)) for p in parts)


def c_api_page():
    with open(os.path.join(SOURCE, "edge/client/shoal.h"), encoding="utf-8") as f:
        text = f.read()
    opening = re.match(r"/\*.*?\*/", text, re.S)[0]
    out = [MADE, "# The C library\n", cell(prose(opening).replace("SPDX-License-Identifier: Apache-2.0\n\n", "")) + "\n",
           "Build with `cc app.c $(pkg-config --cflags --libs shoal)`; examples: `edge/client/examples`.\n"]
    body = text[text.index("/* --- limits"):text.rindex("#ifdef __cplusplus")]
    n = 0
    for title, part in re.findall(r"^/\* --- (.*?) -+ *(?:\n )?\*/\n(.*?)(?=^/\* --- |\Z)", body, re.M | re.S):
        out.append(f"## {title[0].upper() + title[1:]}\n")
        for block in re.split(r"\n\n+(?=\S)", part.strip()):
            comment = re.match(r"/\*.*?\*/\n", block, re.S)
            code = block[comment.end():] if comment else block
            names = re.findall(r"\b(shoal_client_\w+)\(", code) if "SHOAL_CLIENT_API" in code else []
            out += [f"### {name}\n" for name in names]
            n += len(names)
            out.append("```c\n" + re.sub(r"^ {17}(?= )", "", code.replace("SHOAL_CLIENT_API ", ""), flags=re.M).strip() + "\n```\n")
            if comment:
                out.append(cell(prose(comment[0])) + "\n")
    expect(n == text.count("\nSHOAL_CLIENT_API ") > 0, f"{n} functions were found")
    return "\n".join(out)


def pages():
    return {"edge-settings.md": settings_page("shoal-edge", "edge.yaml"),
            "cloud-settings.md": settings_page("shoal-cloud", "cloud.yaml"),
            "metrics.md": metrics_page(), "errors.md": errors_page(), "c-api.md": c_api_page()}


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for page, content in pages().items():
        with open(os.path.join(FOLDER, page), "w", encoding="utf-8") as f:
            f.write(content)
