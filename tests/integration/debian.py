# SPDX-License-Identifier: Apache-2.0
"""A Debian 12 in a folder, for tests of what is done to a whole system. Needs root, debootstrap and a mirror: SHOAL_MIRROR,
else the first one that apt knows here."""
import contextlib
import glob
import os
import shutil
import signal
import sys

from harness import run

SUITE = "bookworm"
SECONDS = 3600
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What this machine needs of everything that runs on it; else nothing of the environment gets in.
KEPT = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "http_proxy", "https_proxy", "no_proxy")
# What apt, dpkg and the loader write for themselves.
OTHERS = ("proc", "sys", "dev", "tmp", "run", "debs", "var/lib/dpkg", "var/lib/apt", "var/cache", "var/log")
# A chroot would do but for programs that make user namespaces, which the kernel refuses to who sits in one.
ENTER = """
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
cd "$1"
shift
pivot_root . .
umount -l .
cd /
exec "$@"
"""


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def skip_without(*programs):
    if os.geteuid() != 0:
        skip("only root may enter another root")
    for program in programs:
        if not shutil.which(program) and not os.path.exists(f"/usr/sbin/{program}"):
            skip(f"{program} is not installed (deploy/deps --package installs it)")


def mirror():
    known = run("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}", check=False).stdout.split()
    if not known and "SHOAL_MIRROR" not in os.environ:
        skip(f"apt knows no mirror of {SUITE} here: set SHOAL_MIRROR to one")
    return os.environ.get("SHOAL_MIRROR") or known[0]


class Root:
    """Entered in a mount namespace of its own, so that nothing stays mounted."""

    def __init__(self, path, make=True):
        self.path = os.path.abspath(path)
        self.emulator = ()  # what runs programs of another architecture in there
        if make:
            self.make()

    def make(self):
        # It mounts things in there, which a mount namespace takes along however it ends.
        done = run("unshare", "--mount", "debootstrap", "--variant=minbase", SUITE, self.path, mirror(), check=False,
                   timeout=SECONDS)
        if done.returncode != 0:
            skip(f"debootstrap from {mirror()}: {(done.stdout + done.stderr).strip()[-200:]}")
        shutil.copy("/etc/resolv.conf", self.file("etc/resolv.conf"))
        for proxy in glob.glob("/etc/apt/apt.conf.d/*proxy*"):
            shutil.copy(proxy, self.file("etc/apt/apt.conf.d"))
        with open(self.file("etc/hosts"), "w", encoding="utf-8") as f:  # as Debian's installer writes it
            f.write("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        with open(self.file("usr/sbin/policy-rc.d"), "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\nexit 101\n")
        os.chmod(f.name, 0o755)

    def file(self, name):
        return os.path.join(self.path, name.lstrip("/"))

    def prefix(self, user=None):
        kept = [f"{name}={os.environ[name]}" for name in KEPT if name in os.environ]
        return ["unshare", "--mount", "sh", "-e", "-c", ENTER, "sh", self.path, *(["chroot", user, "/"] if user else []),
                "env", "-i", f"PATH={PATH}", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", *kept]

    def run(self, *command, **options):
        return run(*self.prefix(), *command, **{"text": "", "timeout": SECONDS, **options})

    def processes(self):
        """What still runs in there: {process id: its words}."""
        found = {}
        for process in glob.glob("/proc/[0-9]*"):
            try:
                with open(f"{process}/cmdline", encoding="utf-8", errors="replace") as f:
                    words = f.read().replace("\0", " ").strip()
                if os.path.samefile(f"{process}/root", self.path):
                    found[int(os.path.basename(process))] = words
            except OSError:  # it has just ended
                pass
        return found

    def end(self):
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def files(self):
        found = set()
        for folder, folders, names in os.walk(self.path):
            inner = os.path.relpath(folder, self.path)
            if inner in OTHERS:
                folders[:] = []
                continue
            found.update(os.path.normpath(os.path.join(inner, name)) for name in folders + names)
        return found
