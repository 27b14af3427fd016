# SPDX-License-Identifier: Apache-2.0
"""Nodes under load, for tests/bench/cloud and tests/chaos: tenants, shoal-bench-load, what a node uses."""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "..", "integration"))
from harness import FAMILY, FAMILY_EOS, SANITIZED, SOURCE, Site, binary, request, run  # noqa: E402,F401


def make_tenant(site, name):
    """An identity of the site's authority for one more device, which is a tenant of its own; (certificate, key)."""
    run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), site.file("certs"), name)
    return site.file(f"certs/{name}.pem"), site.file(f"certs/{name}.key")


def options(site, target, tenants=None, **settings):
    """The command of shoal-bench-load; settings as its options, with _ for -; a list gives one option an entry."""
    command = [binary("shoal-bench-load"), "--target", target, "--ca", site.file("certs/ca.pem"), "--name", "localhost"]
    for cert, key in tenants or [(site.file("certs/edge.pem"), site.file("certs/edge.key"))]:
        command += ["--cert", cert, "--key", key]
    for key, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            command += ["--" + key.replace("_", "-")] + ([] if one is True else [str(one)])
    return command


class Load:
    """shoal-bench-load as it runs; wait gives its JSON lines, and raises when a token was wrong or a session failed."""

    def __init__(self, site, target, table=None, tenants=None, **settings):
        self.json = site.file(f"load-{len(os.listdir(site.path))}-{os.urandom(4).hex()}.json")
        self.table = table
        self.process = subprocess.Popen(options(site, target, tenants, json=self.json, **settings),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout=3600):
        out, err = self.process.communicate(timeout=timeout)
        if self.table:
            self.table.write(out)
            self.table.flush()
        if self.process.returncode != 0:
            raise AssertionError(f"shoal-bench-load ended with {self.process.returncode}: {err.strip()}\n{out}")
        if not os.path.exists(self.json):
            return []
        with open(self.json, encoding="utf-8") as f:
            return [json.loads(line) for line in f]


def offer(site, target, **settings):
    return Load(site, target, **settings).wait()


def start_node(site, model, **settings):
    """A node with its operations endpoint, at node.url."""
    node = site.cloud(model, http__address="127.0.0.1:0", **settings).start()
    line = node.process.stdout.readline()
    if not line.startswith("http: "):
        raise AssertionError(f"no address of the operations endpoint: {line!r}")
    node.url = line[len("http: "):].strip()
    return node


def metric(node, name):
    """A sample of /metrics by its whole name, labels included; 0 when it is not there."""
    for line in request(node.url, "GET", "/metrics")[2].decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


class Steps:
    """Engine steps, and rows of them, that a node ran since."""

    def __init__(self, node):
        self.node = node
        self.before = self.read()

    def read(self):
        return [metric(self.node, name) for name in
                ("shoal_engine_steps_total", "shoal_engine_step_rows_sum", "shoal_engine_step_seconds_sum")]

    def __str__(self):
        n, rows, seconds = (now - before for now, before in zip(self.read(), self.before))
        return f"{n:.0f} engine steps of {rows / max(n, 1):.1f} rows and {1000 * seconds / max(n, 1):.1f} ms"


def resident_kib(daemon):
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))


def cpu_seconds(daemon):
    with open(f"/proc/{daemon.process.pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
