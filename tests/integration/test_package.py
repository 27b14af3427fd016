#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Debian packages in a Debian 12 of their own: built, judged, installed, started as their units say, upgraded, purged. Those
for arm64 are installed beside the system's own architecture and run by an emulator.

Needs root, debhelper, lintian, debootstrap and a mirror: SHOAL_MIRROR, else the first one that apt knows here.
SHOAL_PACKAGES names a folder of packages built before.
"""
import glob
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile

from debian import SECONDS, Root, skip_without
from harness import FAMILY, SOURCE, Daemon, Site, complete, expect, free_port, main, run

PACKAGES = ("libshoal1", "libshoal-dev", "shoal", "shoal-forge", "shoal-cloud", "shoal-edge")
DAEMONS = ("cloud", "edge")
MODELS = {"cloud": "minnow-full.gguf", "edge": "minnow-edge.gguf"}
EMULATOR = "/usr/bin/qemu-aarch64-static"
QUESTION = "What does H40 mean on the Tapir 10?"


def settings(root):
    texts = []
    for name in DAEMONS:
        with open(root.file(f"etc/shoal/{name}.yaml"), encoding="utf-8") as f:
            texts.append(f.read())
    return texts


class Service(Daemon):
    """A daemon as its installed unit says, with this test as the service manager."""

    def __init__(self, root, name, log):
        super().__init__(f"shoal-{name}", "http: " if name == "edge" else "grpc: ", {}, log)
        self.root, self.unit = root, {}
        with open(root.file(f"lib/systemd/system/shoal-{name}.service"), encoding="utf-8") as f:
            for key, value in (line.strip().split("=", 1) for line in f if "=" in line and line[0].isalpha()):
                self.unit.setdefault(key, []).append(value)
        expect(self.unit["Type"] == ["notify"], f"{name} is {self.unit['Type']}")
        self.user = f"--userspec={self.unit['User'][0]}:{self.unit['Group'][0]}"
        folder = tempfile.mkdtemp(prefix="notify-", dir=root.file("tmp"))
        os.chmod(folder, 0o755)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.settimeout(60)
        self.manager.bind(os.path.join(folder, "s"))
        os.chmod(os.path.join(folder, "s"), 0o777)
        self.env = [f"NOTIFY_SOCKET=/tmp/{os.path.basename(folder)}/s",
                    f"WATCHDOG_USEC={1000000 * int(self.unit['WatchdogSec'][0])}"]

    def enter(self, line):
        words = shlex.split(line)
        emulator = self.root.emulator if words[0].startswith("/usr/bin/shoal-") else ()
        return [*self.root.prefix(self.user), "env", *self.env, *emulator, *words]

    def start(self):
        for line in self.unit["ExecStartPre"]:
            run(*self.enter(line))
        self.stderr = open(self.log, "ab")
        self.process = subprocess.Popen(self.enter(self.unit["ExecStart"][0]), stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        line = self.process.stdout.readline()
        expect(line.startswith(self.ready), f"{self.name} did not start: {line!r} {self.tail()}")
        self.address = line[len(self.ready):].strip()
        self.told("READY=1")
        self.told("WATCHDOG=1")
        return self

    def reload(self):
        """systemctl reload: the unit's commands in their order, until one fails. Its words, or None."""
        for line in self.unit["ExecReload"]:
            done = run(*self.enter(line.replace("$MAINPID", str(self.process.pid))), check=False)
            if done.returncode != 0:
                return done.stderr
        self.told("RELOADING=1")
        self.told("READY=1")
        return None

    def told(self, word):
        while not self.manager.recv(256).decode().startswith(word):
            pass

    def stop(self, seconds=30):
        super().stop(int(self.unit["TimeoutStopSec"][0]))
        self.told("STOPPING=1")
        self.manager.close()


def build(folder, *options):
    given = os.environ.get("SHOAL_PACKAGES")
    if not given:
        print(run(os.path.join(SOURCE, "deploy/package"), *options, folder, timeout=2 * SECONDS).stdout, flush=True)
        given = folder
    found = [glob.glob(os.path.join(given, f"{name}_*.deb")) for name in PACKAGES]
    for name, paths in zip(PACKAGES, found):
        expect(len(paths) == 1, f"{len(paths)} packages {name} in {given}")
    return [paths[0] for paths in found]


def next_version(debs, folder, suffix, setting=""):
    """The same packages with a higher version, and a line more in each file of settings."""
    made = []
    for deb in debs:
        tree = os.path.join(folder, "tree")
        run("dpkg-deb", "-R", deb, tree)
        version = run("dpkg-deb", "-f", deb, "Version").stdout.strip()
        with open(os.path.join(tree, "DEBIAN/control"), encoding="utf-8") as f:
            control = f.read()
        with open(os.path.join(tree, "DEBIAN/control"), "w", encoding="utf-8") as f:
            f.write(re.sub(rf"(?<![0-9.]){re.escape(version)}(?![0-9.])", version + suffix, control))
        for path in glob.glob(os.path.join(tree, "etc/shoal/*.yaml")):
            with open(path, "a", encoding="utf-8") as f:
                f.write(setting)
        made.append(os.path.join(folder, os.path.basename(deb).replace(version, version + suffix)))
        run("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, made[-1])
        shutil.rmtree(tree)
    return made


def install(root, debs, *options):
    folder = tempfile.mkdtemp(dir=root.file("debs"))
    os.chmod(folder, 0o755)
    for deb in debs:
        shutil.copy(deb, folder)
    inside = os.path.join("/debs", os.path.basename(folder))
    root.run("dpkg", *options, "-i", *(os.path.join(inside, os.path.basename(deb)) for deb in debs))


def fresh_root(debs, path):
    """What they depend on is there before, and chosen by apt, so that only our own files can differ at the end."""
    root = Root(path)
    os.makedirs(root.file("debs"))
    root.run("apt-get", "update", "-qq")
    depends = ",".join(run("dpkg-deb", "-f", deb, "Depends").stdout for deb in debs)
    needs = {part.split("|")[0].split("(")[0].strip() for part in depends.split(",")}
    root.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "systemd", *sorted(needs - {"", *PACKAGES}))
    return root


def configure(root, scratch):
    """An operator's work: models, keys, settings in the file and in the folder beside it."""
    run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), os.path.join(scratch, "certs"))
    grpc = free_port()
    tls = "  ca: /etc/shoal/{0}/ca.pem\n  cert: /etc/shoal/{0}/{0}.pem\n  key: /etc/shoal/{0}/{0}.key\n"
    more = {"cloud": f"listen:\n  address: 127.0.0.1:{grpc}\ntls:\n" + tls.format("cloud"),
            "edge": f"cloud:\n  target: 127.0.0.1:{grpc}\n  name_override: localhost\n" + tls.format("edge")}
    own = {"cloud": f"http.address: 127.0.0.1:{free_port()}\n", "edge": f"listen.address: 127.0.0.1:{free_port()}\n"}
    for name in DAEMONS:
        shutil.copy(os.path.join(FAMILY, MODELS[name]), root.file(f"var/lib/shoal-{name}/models/{name}.gguf"))
        for key in ("ca.pem", f"{name}.pem", f"{name}.key"):
            shutil.copy(os.path.join(scratch, "certs", key), root.file(f"etc/shoal/{name}"))
            os.chmod(root.file(f"etc/shoal/{name}/{key}"), 0o640)
            root.run("chgrp", f"shoal-{name}", f"/etc/shoal/{name}/{key}")
        with open(root.file(f"etc/shoal/{name}.yaml"), "a", encoding="utf-8") as f:
            f.write(more[name])
        with open(root.file(f"etc/shoal/{name}.conf.d/10-ports.yaml"), "w", encoding="utf-8") as f:
            f.write(own[name])


def serve(root, scratch):
    """Both daemons from their units, one exact answer across them, a reload taken and one refused."""
    services = []
    try:
        for name in DAEMONS:
            services.append(Service(root, name, os.path.join(scratch, f"{name}.log")).start())
        cloud, edge = services
        answer = complete(edge.address, QUESTION, "exact", n=32, chat=True, temperature=0)
        expect(answer.error is None and answer.text, f"{answer.error} {cloud.tail()}")
        said = root.run("env", f"SHOAL_URL={edge.address}", *root.emulator, "/usr/bin/shoal", "ask", "--mode", "exact",
                        "--temp", "0", "--max-tokens", "32", QUESTION).stdout
        expect(answer.text.split() == said.split(), f"shoal ask says {said!r}, not {answer.text!r}")
        for service in services:
            name = service.unit["User"][0].removeprefix("shoal-")
            extra = root.file(f"etc/shoal/{name}.conf.d/20-log.yaml")
            for text, refusal in (("log.level: debug\n", None), ("log.level: loud\n", "20-log.yaml:1: log.level: loud")):
                with open(extra, "w", encoding="utf-8") as f:
                    f.write(text)
                told = service.reload()
                expect((told is None) if refusal is None else refusal in (told or ""), f"{name}, {text!r}: {told}")
            os.unlink(extra)
            expect("reloaded" in service.tail(), f"{name} did not reload: {service.tail()}")
        return answer.text
    finally:
        for service in reversed(services):
            service.stop()


def check_installed(root):
    for name in DAEMONS:
        for path, wanted in ((f"/etc/shoal/{name}.yaml", f"640 root shoal-{name}"), (f"/etc/shoal/{name}", f"750 root shoal-{name}"),
                             (f"/etc/shoal/{name}.conf.d", f"750 root shoal-{name}")):
            mode = root.run("stat", "-c", "%a %U %G", path).stdout.strip()
            expect(mode == wanted, f"{path} is {mode}, not {wanted}")
        wants = root.file(f"etc/systemd/system/multi-user.target.wants/shoal-{name}.service")
        expect(not os.path.lexists(wants), f"shoal-{name} was switched on without a model")
    root.run("shoal", "--version")
    expect("commands" in root.run("shoal-forge", "--help").stdout, "shoal-forge --help names no commands")


def test_packages_install_serve_upgrade_and_purge():
    skip_without("debootstrap", "dh", "lintian")
    scratch = tempfile.mkdtemp(prefix="shoal-test-")
    os.chmod(scratch, 0o755)
    try:
        debs = build(os.path.join(scratch, "packages"))
        root = fresh_root(debs, os.path.join(scratch, "root"))
        before = root.files()
        install(root, debs)
        check_installed(root)
        configure(root, scratch)
        text = serve(root, scratch)
        edited = settings(root)
        install(root, next_version(debs, scratch, "+1"))
        expect(settings(root) == edited, "an upgrade with the same settings file has changed it")
        install(root, next_version(debs, scratch, "+2", "# new\n"), "--force-confdef", "--force-confold")
        expect(settings(root) == edited, "an upgrade with a new settings file has replaced the operator's")
        expect(os.path.exists(root.file("etc/shoal/edge.yaml.dpkg-dist")), "the new settings file is not beside the old one")
        check_installed(root)
        again = serve(root, scratch)
        expect(again == text, f"after the upgrade {again!r}, before {text!r}")
        root.run("dpkg", "--remove", *reversed(PACKAGES))
        expect(settings(root) == edited, "removing has changed the settings")
        root.run("dpkg", "--purge", *reversed(PACKAGES))
        left = sorted(root.files() - before)
        expect(not left, f"left after purge: {left[:20]}")
        return f"{len(debs)} packages; {text!r}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def test_packages_for_arm64_serve_under_emulation():
    skip_without("debootstrap", "dh", "lintian", "qemu-aarch64-static")
    scratch = tempfile.mkdtemp(prefix="shoal-test-")
    os.chmod(scratch, 0o755)
    try:
        debs = build(os.path.join(scratch, "packages"), "--arm64")
        root = Root(os.path.join(scratch, "root"))
        root.emulator = (EMULATOR,)
        shutil.copy(shutil.which("qemu-aarch64-static"), root.file(EMULATOR))
        os.makedirs(root.file("debs"))
        for deb in debs:
            expect(run("dpkg-deb", "-f", deb, "Architecture").stdout.strip() == "arm64", f"{deb} is not for arm64")
            shutil.copy(deb, root.file("debs"))
        root.run("dpkg", "--add-architecture", "arm64")
        root.run("apt-get", "update", "-qq")
        root.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "systemd",
                 *(f"/debs/{os.path.basename(deb)}" for deb in debs))
        configure(root, scratch)
        text = serve(root, scratch)
        with Site() as site:  # this machine's own programs, the same models
            full, edge = site.models()
            here = complete(site.edge(edge, site.cloud(full).start().address).start().address, QUESTION, "exact", n=32, chat=True,
                            temperature=0)
        expect(text == here.text, f"arm64 says {text!r}, this machine {here.text!r}")
        return f"{len(debs)} packages; {text!r}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main([test_packages_install_serve_upgrade_and_purge, test_packages_for_arm64_serve_under_emulation])
