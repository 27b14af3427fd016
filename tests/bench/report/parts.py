# SPDX-License-Identifier: Apache-2.0
"""The parts of a report: which programs of tests/bench they run, and what of their JSON becomes tables and figures."""
import json
import os
import shlex
import shutil
import subprocess
import sys

from .machine import ROOT
from .pages import figure

SKIPPED = 77
FAMILY = "deploy/models/minnow"
STORIES = "../shared/models/stories3M-f32.gguf"
REDIS = "/usr/bin/redis-check-rdb"  # the server, by another name; of redis-tools


class Failed(Exception):
    """A program of a part did not do its work."""


class Job:
    """One part being measured: runs programs, keeps what they printed, collects what becomes the part."""

    def __init__(self, name, out, quick):
        self.name, self.quick = name, quick
        self.out = os.path.join(out, name)
        self.plots_made = shutil.which("gnuplot") is not None
        self.commands, self.tables, self.figures, self.notes, self.plots, self.skipped = ([] for _ in range(6))
        os.makedirs(self.out, exist_ok=True)
        if not self.plots_made:
            self.skipped.append("plots, as gnuplot is not installed (Debian's gnuplot-nox)")

    def file(self, name, fresh=False):
        path = os.path.join(self.out, name)
        if fresh and os.path.exists(path):
            os.remove(path)
        return path

    def run(self, *command, told=True, may_skip=None):
        """Its standard output; None when it said that it cannot run here. What it prints goes to the part's log too."""
        if told:
            self.commands.append(shlex.join(command).replace(ROOT + "/", ""))
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.file("log.txt"), "a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                                  check=False)
            log.write(done.stdout)
        if done.returncode == SKIPPED and may_skip:
            self.skipped.append(may_skip)
            return None
        if done.returncode != 0:
            raise Failed(f"{shlex.join(command)} ended with {done.returncode}: {self.file('log.txt')} has what it said")
        return done.stdout

    def program(self, name):
        path = os.path.join(os.environ.get("SHOAL_BIN_DIR", "build/release/bin"), name)
        if not os.path.exists(os.path.join(ROOT, path)):
            raise Failed(f"{path} is missing: tests/run release builds it")
        return path

    def plot(self, name):
        """Options that make a program draw, and the plot noted."""
        if not self.plots_made:
            return []
        self.plots.append(name)
        return ["--plot", self.file(name)]

    def table(self, title, columns, rows, below=None):
        self.tables.append({"title": title, "columns": columns, "rows": rows, **({"below": below} if below else {})})

    def figure(self, name, value, unit, better):
        self.figures.append(figure(f"{self.name}/{name}", value, unit, better))


def lines(path):
    with open(path, encoding="ascii") as f:
        return [json.loads(line) for line in f if line.strip()]


def per_cent(share, digits=1):
    return f"{100 * share:.{digits}f} %"


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


# --- engine -----------------------------------------------------------------------------------------------------------------------


def engine_row(job, said):
    modes = said["modes"]
    rates = {name: modes[name]["tok_s"] for name in ("decode", *(f"width {n}" for n in (2, 4, 8, 16, 32)), "prefill")}
    verify = 5 / modes["verify 5"]["of_plain"]
    deep = {kv: modes[f"deep, {kv} KV"]["of_plain"] for kv in ("f16", "q8")}
    at = f"{said['model'].removeprefix('random ')}/{said['type']}"
    for name, rate in rates.items():
        job.figure(f"{at}/{name}", rate, "tok/s", "more")
    job.figure(f"{at}/read", said["read_share"], "of the bandwidth", "more")
    job.figure(f"{at}/verify 5", verify, "plain steps", "less")
    for kv, share in deep.items():
        job.figure(f"{at}/deep {kv}", share, "of the rate without depth", "more")
    return [said["model"].removeprefix("random "), said["type"], number(rates["decode"], 1),
            number(said["bytes_per_token"] * rates["decode"] / 1e9, 1), number(said["read_share"], 2),
            *(number(rates[f"width {n}"], 1) for n in (2, 4, 8, 16, 32)), number(verify, 2), number(deep["f16"], 2), number(deep["q8"], 2),
            number(rates["prefill"], 1), number(modes["prefill"]["ops_share"], 2)]


def engine(job):
    sizes = ["--smoke", "--shapes", "llama-tiny", "--types", "Q4_0 F16"] if job.quick else ["--rounds", "5"]
    job.run("tests/bench/engine", *sizes, "--out", job.out, *job.plot("engine.svg"))
    said = lines(job.file("engine.json"))
    job.table(f"Whole models of real shapes with random weights, {said[0]['threads']} threads, {said[0]['tier']}",
              ["model", "type", "decode", "GB/s of weights", "read", "width 2", "4", "8", "16", "32", "verify", "deep f16", "deep q8",
               f"prefill {said[0]['prefill']}", "ops"], [engine_row(job, one) for one in said],
              "Tokens a second, but: `GB/s of weights`, what decoding read of them; `read`, its share of the memory bandwidth measured "
              "beside it; `verify`, what a step over five tokens costs in plain steps; "
              f"`deep`, the rate at {said[0]['depth']} tokens against none; `ops`, prefill's share of the "
              "arithmetic peak measured beside it.")


# --- edge and cloud ---------------------------------------------------------------------------------------------------------------


def assist(job):
    sizes = ["-n", "12", "--rates", "0.1", "--risks", "", "--width", "4"] if job.quick else ["-n", "4000", "--rates", "0.03,0.05,0.1,0.15"]
    rows = []
    for said in map(json.loads, job.run("tests/bench/assist", *sizes, "--json").splitlines()):
        rows.append([said["mode"], per_cent(said["right"], 2), per_cent(said["of_cloud"], 2), per_cent(said["cloud_tokens"]),
                     number(said["rounds"], 2), number(said["bytes_up"], 0)])
        job.figure(f"assist/{said['mode']}/right", said["right"], "of answers", "more")
        job.figure(f"assist/{said['mode']}/cloud tokens", said["cloud_tokens"], "of tokens", "less")
        job.figure(f"assist/{said['mode']}/bytes up", said["bytes_up"], "B an answer", "less")
    job.table(f"Real daemons over mTLS on loopback, minnow, {said['n']} questions of the field as people ask them",
              ["mode", "right", "of the right ones of `cloud`", "tokens from the cloud", "hand-overs an answer", "bytes up an answer"], rows,
              "An answer is right when all of it is the reference.")


def link(job):
    # The whole grid takes hours and says little more than its corners: 10 Mbit/s, three losses.
    sizes = ["-n", "2", "--rtts", "20", "--losses", "0"] if job.quick else ["-n", "40", "--rtts", "5,50,100,200", "--losses", "0,0.01,0.05"]
    told = job.file("link.json", fresh=True)
    plot = [] if job.quick else job.plot("link.svg")  # of one link there is no line
    if job.run("tests/bench/link", *sizes, "--mbits", "10", "--json", told, "--out", job.out, *plot,
               may_skip="links with delay and loss, as this system gives no network namespaces or TUN devices") is None:
        job.plots = [one for one in job.plots if one != "link.svg"]
        return
    rows = []
    for said in lines(told):
        at = f"link/{said['rtt_ms']:g} ms, loss {said['loss']:g}/{said['mode']}"
        rows.append([f"{said['rtt_ms']:g} ms, {per_cent(said['loss'], 0)}" if said["rtt_ms"] else "none", said["mode"],
                     number(said["tokens_per_s"], 1), number(said["first_ms"], 1), number(said["cloud_ms_per_token"], 3),
                     f"{said['link_up']:.0f}, {said['link_down']:.0f}", per_cent(said["cloud_tokens"]), per_cent(said["right"])])
        job.figure(f"{at}/tok_s", said["tokens_per_s"], "tok/s", "more")
        job.figure(f"{at}/first token", said["first_ms"], "ms", "less")
        job.figure(f"{at}/cloud time", said["cloud_ms_per_token"], "ms a token", "less")
    job.table(f"Over links of 10 Mbit/s with a round trip and loss, {said['n']} questions one after another",
              ["link", "mode", "tok/s", "first token, ms (median)", "processor time of the cloud, ms a token",
               "bytes on the link an answer, up and down", "tokens from the cloud", "right"], rows,
              "Mode `exact` said what mode `cloud` said, byte for byte, on every link, or there would be no table.")


def cooperation(job):
    assist(job)
    link(job)


# --- a cloud under load -----------------------------------------------------------------------------------------------------------


def load_table(job, said, title, prefix):
    rows = []
    for row in said["rows"]:
        first, gap, refusal = (row[key] or {} for key in ("first_ms", "gap_ms", "refusal_ms"))
        rows.append([f"{row['share']:g}", number(row["rate"], 0), row["ok"], row["refused"], number(row["goodput"], 0), number(first.get("p50"), 1),
                     number(first.get("p99"), 1), number(gap.get("p99"), 1), number(refusal.get("p99"), 1), number(row["own"], 2)])
    job.figure(f"{prefix}/best goodput", said["best"], "tok/s", "more")
    job.figure(f"{prefix}/least beyond", said["least_beyond"], "of the best", "more")
    half = next(row for row in said["rows"] if row["share"] == 0.5)
    if half["first_ms"]:
        job.figure(f"{prefix}/first token at half load, p50", half["first_ms"]["p50"], "ms", "less")
    job.table(title,
              ["share", "sessions a second", "whole", "refused", "goodput, tok/s", "first token p50, ms", "p99", "between tokens p99, ms",
               "refusal p99, ms", "generator, processors"], rows,
              "Arrivals are Poisson, latency counts from them; every token was compared with its session alone. Beyond saturation goodput was at "
              f"least {per_cent(said['least_beyond'])} of the best.")


def said_by(job, what, sizes, name="cloud"):
    """What tests/bench/cloud said of itself, by what it measured."""
    told = job.file(f"{name}.json", fresh=True)
    by = {}
    job.run("tests/bench/cloud", *what, *sizes, "--out", job.out, "--json", told)
    for said in lines(told):
        by.setdefault(said["what"], []).append(said)
    return by


def cloud(job):
    sizes = ["--scale", "0.02"] if job.quick else ["--scale", "0.2"]
    plot = job.plot("cloud.svg")
    for said in said_by(job, ["streams"], ["--scale", "0.02"] if job.quick else [], "streams")["streams"]:
        job.notes.append(f"{said['n']} streams at once in mode `{said['mode']}`: all whole and as recorded, {said['goodput']:.0f} tok/s, first token "
                         f"p50 {said['first_ms']['p50']:.0f} ms, p99 {said['first_ms']['p99']:.0f} ms.")
        job.figure(f"streams/{said['mode']}", said["goodput"], "tok/s", "more")
    by = said_by(job, ["load"], [*sizes, *plot])
    load_table(job, by["load"][0], "Offered load, a share of what 64 sessions at once get; node and generator share the processors", "load")
    if len(os.sched_getaffinity(0)) < 2:
        job.skipped.append("node and generator on processors of their own, as there is but one")
        return
    by = said_by(job, ["load"], [*sizes, "--apart", "--threads", "1"], "apart")
    load_table(job, by["load"][0], "The same, the node on one processor and the generator on the others, so that the node has as much at every load",
               "load apart")


def speculation(job):
    sizes = ["--scale", "0.02", "--rounds", "1", "--widths", "1,4"] if job.quick else ["--rounds", "5", "--scale", "8"]
    rows = []
    for row in said_by(job, ["spec"], [*sizes, *job.plot("spec.svg")])["spec"]:
        rows.append([row["width"], *(number(row["tok_s"][label], 0) for label in ("off", "on", "auto")), number(row["on"], 2),
                     number(row["auto_of_better"], 2), number(row["auto_begins"], 2), number(row["model_on"], 2)])
        job.figure(f"{row['width']} at once, on", row["on"], "of off", "more")
        job.figure(f"{row['width']} at once, auto", row["auto_of_better"], "of the better", "more")
    job.table("Drafts of acceptance 0.8 in spans of five (on) and spans as `edge/pace` chooses (auto) against none (off)",
              ["sessions at once", "off, tok/s", "on", "auto", "on against off", "auto against the better", "when the edge has just begun",
               "on, by cloud compute"], rows)


def sharing(job):
    what = ["same"] if job.quick else ["same", "prefix", "store", "tenants"]
    if "store" in what and not os.path.exists(REDIS):
        what.remove("store")
        job.skipped.append("a KV store, as Redis is not installed (Debian's redis-tools)")
    by = said_by(job, what, ["--scale", "0.02"] if job.quick else [])
    same = by["same"]
    job.notes.append(f"Sessions in random batches against each alone: {sum(s['arrived'] for s in same)}, {sum(s['tokens'] for s in same)} tokens, "
                     f"{sum(s['wrong'] for s in same)} differ.")
    job.figure("same/wrong", sum(s["wrong"] for s in same), "tokens", "same")
    for said in by.get("prefix", []):
        job.notes.append(f"A prompt with {said['n_shared']} tokens in common: {said['first_compute_ms']:.1f} ms of compute for the first session, "
                         f"{said['more_compute_ms']:.1f} ms for each of 64 after it.")
        job.figure("prefix/each after the first", said["more_compute_ms"], "ms", "less")
    store = [said for said in by.get("store", []) if "n_tokens" in said]
    if store:
        job.table("First token of a prompt, ms (p50): computed, fetched from a store that another node has filled, as the node chooses",
                  ["tokens", "computed", "fetched", "chosen"],
                  [[said["n_tokens"], *(number(said["first_ms"][how], 1) for how in ("computed", "fetched", "chosen"))] for said in store])
        for said in store:
            job.figure(f"store/{said['n_tokens']} tokens, chosen", said["first_ms"]["chosen"], "ms", "less")


# --- KV ---------------------------------------------------------------------------------------------------------------------------


def field_text(job, name, seed, size):
    """Questions and answers that the family was made for, where no longer text is there."""
    path = job.file(name)
    made = job.run(job.program("shoal-forge"), "make-data", "--seed", str(seed), "--split", "train", "--text", "-n", "600", told=False)
    with open(path, "w", encoding="utf-8") as f:
        f.write(made[:size])
    return path


def levels_table(job, said):
    rows = []
    for one in said:
        # Of what is evicted nothing is held, so that fewer bytes than the form's are shared out among all tokens.
        share = one["kv_bytes"] / said[0]["kv_bytes"] if "@" in one["level"] else 1
        rows.append([one["level"], number(share * one["kv_bits"], 2), number(one["ppl"], 4), per_cent(one["ppl"] / one["f16_ppl"] - 1, 3)])
        job.figure(f"levels/{one['level']}/perplexity", one["ppl"], "", "same")
        job.figure(f"levels/{one['level']}/bits", share * one["kv_bits"], "bits", "same")
    job.table(f"What a form of KV costs {said[0]['model']}, {said[0]['tokens']} tokens",
              ["level", "bits of an element", "perplexity", "above f16"], rows,
              "`a1.4` and the like: archived at so many bits, and with `-128` all but the newest 128 tokens; `h2o@96` and the like: evicted down to "
              "96 tokens, in f16. Bits hold everything, shared out among all tokens.")


def kv(job):
    if job.quick:
        texts = [field_text(job, name, seed, 6000) for seed, name in enumerate(("text.txt", "calibration.txt"), 1)]
        sizes = ["--levels", "q8 q4", "--bits", "1.4", "--budgets", "32", f"{FAMILY}/minnow-full.gguf", texts[0], "96", texts[1]]
    elif not os.path.exists(os.path.join(ROOT, STORIES)):
        raise Failed(f"{STORIES} is missing: it is what the levels are judged by")
    else:
        sizes = []
    job.run("tests/bench/kv_levels", "--out", job.out, *job.plot("kv_levels.svg"), *sizes)
    levels_table(job, lines(job.file("kv_levels.json")))
    slots = ["--smoke"] if job.quick else []
    kernels = json.loads(job.run(job.program("shoal-bench-kernels"), "--slot", "seal", *slots, "--json"))["results"]
    job.table("Sealing and opening blocks, one thread", ["kernel", "shape", "tier", "GB/s of f16"],
              [[k["name"], k["shape"], k["tier"], number(k["gb_per_s"], 1)] for k in kernels])
    for k in kernels:
        job.figure(f"{k['name']}/{k['shape']}/{k['tier']}", k["gb_per_s"], "GB/s", "more")
    prefix(job)


def prefix(job):
    sizes = ["--tokens", "64", "-n", "1", "--kv", "q8", "--cpu", "0"] if job.quick else ["--shape", "qwen-0.5b", "--kv", "q8,q4,q3", "-n", "3"]
    told = job.file("prefix.json", fresh=True)
    if job.run("tests/bench/prefix", *sizes, "--json", told,
               may_skip="a prompt's KV over a link, as this system gives no network namespaces or TUN devices") is None:
        return
    rows = []
    for one in lines(told):
        rows.append([one["kv"], number(one["down"] / 1e6, 2), number(one["computed_ms"], 0), number(one["fetched_ms"], 0), per_cent(one["ratio"], 0),
                     per_cent(one["ratio_cpu"], 0), str(one["fetched"][0])])
        job.figure(f"prefix/{one['kv']}/of computing", one["ratio_cpu"], "of the time", "less")
    job.table("A prompt's KV fetched against computed, edge on a share of a core, 20 Mbit/s and 30 ms",
              ["KV", "MB down", "first token computed, ms", "fetched, ms", "of it", "of its processor time over the share", "tokens fetched"], rows)


# --- compression ------------------------------------------------------------------------------------------------------------------


def compress(job):
    if job.quick:
        texts = [field_text(job, name, seed, 40000) for seed, name in enumerate(("calibration.txt", "text.txt"), 1)]
        sizes = ["--forms", "q8,rtn4,gptq4", "--tokens", "600", f"{FAMILY}/minnow-edge.gguf", *texts]
    elif not os.path.exists(os.path.join(ROOT, STORIES)):
        raise Failed(f"{STORIES} is missing: it is what the forms are judged by")
    else:
        sizes = []
    told = job.file("compress.json", fresh=True)
    job.run("tests/bench/compress_forms", "--out", job.file("forms"), "--json", told, *job.plot("compress.svg"), *sizes)
    rows = []
    for one in lines(told):
        rows.append([one["name"], one["kind"], one["bytes"], number(one["bits"], 2), number(one["ppl"], 3), per_cent(one["ppl"] / one["full"] - 1),
                     per_cent(one["same_next"]), number(one["acceptance"], 3)])
        job.figure(f"{one['name']}/perplexity", one["ppl"], "", "same")
        job.figure(f"{one['name']}/bytes", one["bytes"], "B", "same")
        job.figure(f"{one['name']}/acceptance", one["acceptance"], "", "same")
    job.table("Forms of layers against what the full model expects",
              ["form", "kind", "bytes", "bits a weight", "perplexity", "above full", "same next", "coupled"], rows,
              "`same next`: both models expect the same token; `coupled`: samples with shared noise agree at least so often.")


PARTS = {"engine": ("The engine against the machine's limits", engine), "cooperation": ("Edge and cloud together", cooperation),
         "cloud": ("A cloud under load", cloud), "speculation": ("Speculation by concurrency", speculation),
         "sharing": ("Sessions beside each other", sharing), "kv": ("KV in fewer bytes", kv), "compress": ("Compressed layers", compress)}


def measure(name, out, quick):
    """The part's own keys; raises Failed."""
    job = Job(name, out, quick)
    title, work = PARTS[name]
    print(f"== {name}: {title}", file=sys.stderr, flush=True)
    work(job)
    return {"title": title, "commands": job.commands, "tables": job.tables, "figures": job.figures, "notes": job.notes, "plots": job.plots,
            "skipped": job.skipped}
