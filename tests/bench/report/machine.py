# SPDX-License-Identifier: Apache-2.0
"""The machine that figures belong to, and whether somebody else is using it."""
import os
import platform
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "asimd", "asimddp", "i8mm", "hypervisor")


def read(path, otherwise=None):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return otherwise


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def cpu():
    """(name, flags that matter to the kernels)."""
    fields = {}
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or f"{platform.machine()}, part {fields.get('CPU part', 'unknown')}"
    have = set((fields.get("flags") or fields.get("Features") or "").split())
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return name + family, [flag for flag in FLAGS if flag in have]


def describe():
    name, flags = cpu()
    memory = next((int(line.split()[1]) for line in (read("/proc/meminfo") or "").splitlines() if line.startswith("MemTotal")), 0)
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {"cpu": name, "flags": flags, "cores": os.cpu_count(), "memory_mib": memory // 1024,
            "governor": governor.strip() if governor else "not told", "kernel": platform.release().split("-")[0],
            "compiler": first_line("cc", "--version") or "unknown", "commit": first_line("git", "rev-parse", "--short=12", "HEAD") or "unknown"}


def same(a, b):
    """Whether figures of two machines can be held against each other."""
    return all(a.get(key) == b.get(key) for key in ("cpu", "cores", "flags"))


def used(seconds):
    """The share of all processors that was in use or stolen for so long, by whomever."""
    def now():
        fields = [int(x) for x in (read("/proc/stat") or "cpu 0 0 0 0 0").split("\n")[0].split()[1:]]
        return sum(fields[:8]), sum(fields[3:5])
    all_before, idle_before = now()
    time.sleep(seconds)
    all_after, idle_after = now()
    return 1 - (idle_after - idle_before) / max(1, all_after - all_before)


def load():
    """Of the minute before, and the share in use now."""
    return {"load_1m": round(os.getloadavg()[0], 2), "used": round(used(2), 3)}
