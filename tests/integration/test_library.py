#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""libshoal as an application finds it: installed, by pkg-config; its examples as C99 and as C++, against a real edge."""
import json
import os
import re
import shutil
import subprocess
import sys

from harness import BIN, SOURCE, Site, expect, main, request, run

EXAMPLES = os.path.join(SOURCE, "edge/client/examples")
C = ["cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
CPP = ["c++", "-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def flags(prefix, *more):
    path = subprocess.run(["find", prefix, "-name", "shoal.pc"], capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(["pkg-config", "--define-prefix", *more, "shoal"], capture_output=True, text=True, check=True,
                          env={**os.environ, "PKG_CONFIG_PATH": os.path.dirname(path)})
    return done.stdout.split(), os.path.dirname(os.path.dirname(path))


def test_examples_build_from_an_installed_library_and_run():
    if not shutil.which("pkg-config"):
        print("skipped: pkg-config is not installed")
        sys.exit(77)
    with Site() as site:
        prefix = site.file("prefix")
        run("cmake", f"-DCMAKE_INSTALL_PREFIX={prefix}", "-P", os.path.join(BIN, "../edge/client/cmake_install.cmake"))
        wanted, library = flags(prefix, "--cflags", "--libs")
        version = run("pkg-config", "--modversion", os.path.join(library, "pkgconfig", "shoal.pc")).stdout.strip()
        real = os.path.basename(os.path.realpath(os.path.join(library, "libshoal.so")))
        expect(real == f"libshoal.so.{version}", f"shoal.pc says {version}, the library is {real}")
        for page in ("libshoal", "shoal_client_new"):
            expect(os.path.getsize(os.path.join(prefix, f"share/man/man3/{page}.3")) > 500, f"no manual page {page}(3)")
        _, edge = site.models()
        url = site.edge(edge, mode__default="local").start().address
        question = "What does H40 mean on the Tapir 10?"
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0}
        told = json.loads(request(url, "POST", "/v1/chat/completions", json.dumps(body))[2])["choices"][0]["message"]["content"]
        uv = subprocess.run(["pkg-config", "--cflags", "--libs", "libuv"], capture_output=True, text=True, check=True).stdout.split()
        # Inside the program, with what shoal.pc says that it needs then.
        inside, _ = flags(prefix, "--static", "--cflags", "--libs")
        expect("-lssl" in inside and "-lcrypto" in inside, f"{inside}")
        inside = [os.path.join(library, "libshoal.a") if word == "-lshoal" else word for word in inside]
        for name, compiler, words in (("ask", C, inside), ("ask", C, wanted), ("ask", CPP, wanted), ("loop", C, wanted),
                                      ("loop", CPP, wanted), ("uv", C, [*wanted, *uv]), ("uv", CPP, [*wanted, *uv])):
            program = site.file(f"{name}-{compiler[0]}")
            run(*compiler, os.path.join(EXAMPLES, f"{name}.c"), "-o", program, *words, "-pthread")
            env = {**os.environ, "SHOAL_URL": url, "LD_LIBRARY_PATH": library}
            done = subprocess.run([program, question], env=env, capture_output=True, text=True, timeout=60, check=False)
            expect(done.returncode == 0, f"{name}: {done.stderr}{done.stdout}")
            if name == "ask":
                expect(done.stdout == told, f"{done.stdout!r} is not {told!r}")
                continue
            said = r"\n{}, the loop turned [1-9]\d* times meanwhile\n" if name == "uv" else r"\n{}\n"
            expect(re.search(".." + said.format("ok") + r"\Z", done.stdout), f"{done.stdout!r}")
            # It has had enough after a byte: unless all was there by then, the call ends as cancelled.
            done = subprocess.run([program, question, "1"], env=env, capture_output=True, text=True, timeout=60, check=False)
            expect(done.returncode == 0 and re.search(said.replace("[1-9]", r"\d").format("(ok|cancelled)") + r"\Z", done.stdout), f"{done.stdout!r}")


if __name__ == "__main__":
    main([test_examples_build_from_an_installed_library_and_run])
