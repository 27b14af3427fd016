#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: asked, answered, walked through, cut from the cloud, and made narrow.

SHOAL_SCREENSHOTS names a folder that keeps what the browser saw.
"""
import json
import os
import re
import socket
import sys
import threading
import time

from browser import KEYS, Browser, missing
from harness import Site, binary, expect, main, request, run, wait_until
from test_fleet import Fleet
from test_resume import Cutter

QUESTION = "What does H40 mean on the Tapir 10?"
SHOTS = os.environ.get("SHOAL_SCREENSHOTS")


def shoot(browser, name):
    if SHOTS:
        browser.screenshot(os.path.join(SHOTS, f"{name}.png"))


def open_page(browser, url):
    browser.open(url)
    browser.wait("document.querySelector('#pair').textContent.includes('at the edge')", what="the edge's name")


def answers(n):
    return f"document.querySelectorAll('.answer .facts').length >= {n} && !document.querySelector('.answer.live')"


def ask(browser, text, n):
    """Asks as people do, and waits for the n-th whole answer: the tiers of its tokens."""
    browser.type("#prompt", text + KEYS["Enter"])
    browser.wait(answers(n), 60, "an answer")
    return browser.run("return [...[...document.querySelectorAll('.answer')].at(-1).querySelectorAll('.tok')]"
                       ".map((t) => t.dataset.tier)")


def fits(browser):
    return browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_page_streams_an_answer_and_tells_where_it_was_made():
    with Site() as site, Browser() as browser:
        full, edge = site.models()
        cloud = site.cloud(full).start()
        open_page(browser, site.edge(edge, cloud.address).start().address)
        expect(browser.run("return document.querySelector('#modes input:checked').value") == "assist", "not assist")
        tiers = ask(browser, QUESTION, 1)
        expect(tiers and set(tiers) <= {"edge", "cloud"}, f"tiers {tiers}")
        # Without colour: another underline for each tier, and words.
        styles = browser.run("return [...document.querySelectorAll('#legend .tok')]"
                             ".map((t) => getComputedStyle(t).textDecorationStyle)")
        expect(len(set(styles)) == len(styles) == 4, f"tiers and want of the cloud look alike without colour: {styles}")
        expect(browser.run("return document.querySelector('#alone').hidden"), "want of the cloud though it is there")
        browser.hover(".answer .tok")
        expect("sure" in browser.text("#tip"), "hovering tells nothing")
        # By keyboard alone.
        browser.run("document.querySelector('.answer').focus()")
        browser.press(KEYS["End"], KEYS["Left"])
        said = browser.text("#spoken")
        expect("sure" in said and ("edge" in said or "cloud" in said), f"the arrow keys said {said!r}")
        browser.press(KEYS["Escape"])
        expect(browser.run("return document.querySelector('#tip').hidden"), "Escape leaves the tip")
        expect(browser.run("return document.querySelector('#bundle').hidden"), "a bundle without a fleet")
        # The switch is there and says why it does nothing.
        expect(browser.run("return document.querySelector('#cable').disabled"), "a switch without api.link_switch")
        expect("api.link_switch" in browser.run("return document.querySelector('#cable').title"), "no reason given")
        browser.wait("document.querySelector('#charts path').getAttribute('d')", what="a chart")
        browser.wait("document.querySelector('#words').textContent.includes('1 request answered')",
                     what="the sentence about it")
        shoot(browser, "answer")
        browser.click("#modes input[value=local]")
        expect(set(ask(browser, QUESTION, 2)) == {"edge"}, "mode local used the cloud")
        expect("nothing left the device" in browser.text(".answer:last-child .facts"), "local sent bytes")
        browser.click("#new")
        expect(browser.run("return document.querySelectorAll('.message').length") == 0, "messages stayed")
        expect(browser.complaints() == [], "the console complains")


def test_pulled_cable_is_harmless_and_plugs_back():
    with Site() as site, Browser() as browser:
        full, edge = site.models()
        cloud = site.cloud(full).start()
        open_page(browser, site.edge(edge, cloud.address, api__link_switch="true").start().address)
        browser.click("#modes input[value=exact]")  # always asks the cloud
        ask(browser, QUESTION, 1)
        browser.wait("!document.querySelector('#cable').disabled", what="the switch")
        browser.click("#cable")
        browser.wait("document.querySelector('#cable').getAttribute('aria-checked') === 'true'", what="the cut")
        tiers = ask(browser, QUESTION, 2)
        expect(set(tiers) == {"edge"}, f"cut off, and the answer is {tiers}")
        expect("pulled" in browser.text("#words"), browser.text("#words"))
        # What exact would have had the cloud judge is told apart: by its look, by words, and in the account.
        expect(browser.run("return [...document.querySelectorAll('.answer:last-child .tok')]"
                           ".every((t) => t.dataset.unassisted === 'away')"), "tokens for want of the cloud are not marked")
        expect(not browser.run("return document.querySelector('#alone').hidden"), "the legend does not tell of it")
        browser.hover(".answer:last-child .tok")
        expect("for want of the cloud: the cloud was not within reach" in browser.text("#tip"), browser.text("#tip"))
        expect("for want of the cloud" in browser.text(".answer:last-child .facts"), "not in the account")
        shoot(browser, "cut")
        browser.click("#cable")
        browser.wait("document.querySelector('#cable').dataset.link === 'ready'", what="the link")
        ask(browser, QUESTION, 3)
        expect("bytes up" in browser.text(".answer:last-child .facts"), "the cloud was not asked again")


class StreamCutter(Cutter):
    """Cuts the connection inside the first event of the numbers in `at`, in order; `hold` leaves it open, and silent.
    Before those it cuts `n_early` answers in the middle of their head, and as many behind it."""

    def __init__(self, url):
        self.at = []
        self.n_early = [0, 0]  # in the head, behind it
        self.hold = False
        self.streams = []  # names of those cut
        super().__init__(url)

    def serve(self, client, left):
        edge = socket.create_connection(self.to)
        threading.Thread(target=self.pump, args=(client, edge), daemon=True).start()
        tail = b""
        while data := edge.recv(65536):
            if b"text/event-stream" in data and any(self.n_early):
                i = 0 if self.n_early[0] else 1
                self.n_early[i] -= 1
                client.sendall(data[:data.index(b"\r\n\r\n") + 4 if i else 9])
                time.sleep(0.1)
                break
            found = not any(self.n_early) and self.at and re.search(rb"id: (\w+):%d\ndata: .{20}" % self.at[0], tail + data)
            if found:
                self.streams.append(found[1].decode())
                self.at.pop(0)
                client.sendall(data[:max(0, found.end() - len(tail))])
                if self.hold:
                    return
                time.sleep(0.3)  # a browser drops what it has not read of a stream that breaks
                break
            tail = (tail + data)[-100:]
            client.sendall(data)
        for side in (client, edge):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def last_answer(browser):
    return browser.run("const a = [...document.querySelectorAll('.answer')].at(-1);"
                       "return [a.querySelector('.text').textContent, a.querySelectorAll('.tok').length]")


def test_broken_stream_goes_on_where_it_broke():
    with Site() as site, Browser() as browser:
        full, edge = site.models()
        cloud = site.cloud(full).start()
        proxy = StreamCutter(site.edge(edge, cloud.address).start().address)
        open_page(browser, proxy.url)
        n_asked = 0
        for mode in ("local", "exact"):
            browser.click(f"#modes input[value={mode}]")
            ask(browser, QUESTION, n_asked + 1)
            whole = last_answer(browser)
            expect(whole[1] > 4, f"{whole}: too short to be cut")
            # In the first event with text, in the one behind it again, in the last but one, and behind all of them.
            # Before those, twice in the answer's head and twice behind it: then it is asked for anew.
            cuts = [1, 2, whole[1] - 1, whole[1]]
            proxy.at = list(cuts)
            proxy.n_early = [2, 2]
            proxy.streams = []
            ask(browser, QUESTION, n_asked + 2)
            expect(not proxy.at and not any(proxy.n_early) and len(set(proxy.streams)) == 1,
                   f"{mode}: not cut at {proxy.at}, {proxy.n_early}: {proxy.streams}")
            expect(last_answer(browser) == whole, f"{mode}: cut in {cuts}: {last_answer(browser)} is not {whole}")
            expect("Stopped" not in browser.text(".answer:last-child") and browser.run(
                "return document.querySelector('#trouble').hidden"), "a break that was mended is told as trouble")
            n_asked += 2
        return f"{2 * (len(cuts) + 4)} cuts"


def test_stream_that_is_gone_is_told_and_stop_is_heard():
    with Site() as site, Browser() as browser:
        _, edge = site.models()
        proxy = StreamCutter(site.edge(edge, api__replay_ms=1).start().address)
        open_page(browser, proxy.url)
        proxy.at = [2]
        browser.type("#prompt", QUESTION + KEYS["Enter"])
        browser.wait("!document.querySelector('#trouble').hidden", what="the error")
        expect("api.replay_ms" in browser.text("#trouble p"), browser.text("#trouble p"))
        expect("not complete" in browser.text(".answer:last-child .cut"), "shown as if it were whole")
        # Stop: a closed connection would say that somebody comes back.
        url = site.edge(edge, api__replay_ms=600000).start().address
        proxy = StreamCutter(url)
        open_page(browser, proxy.url)
        proxy.at = [2]
        proxy.hold = True
        browser.type("#prompt", QUESTION + KEYS["Enter"])
        browser.wait("document.querySelector('.answer .tok')", what="a token")
        wait_until(lambda: proxy.streams, what="the stream to be held")
        held = f"/v1/shoal/streams/{proxy.streams[0]}"
        browser.click("#stop")
        browser.wait("document.querySelector('.answer .cut')?.textContent === 'Stopped.'", what="the end")
        wait_until(lambda: request(url, "GET", held)[0] == 404, what="the edge to forget what was stopped")


def test_page_and_command_line_tell_the_bundle_that_runs():
    with Site() as site, Browser() as browser:
        fleet = Fleet(site)
        model = site.tiny_model(1)
        fleet.make(7, model)
        fleet.serve(model)
        edge = fleet.edge(model).start()
        open_page(browser, edge.address)
        browser.wait("document.querySelector('#bundle').textContent.startsWith('Runs the model it was installed with')",
                     what="the installed model")
        fleet.roll("7 100")
        fleet.reload()
        browser.wait("document.querySelector('#bundle').textContent.startsWith('Runs bundle 7 of its fleet, on trial')", 60,
                     "the bundle")
        said = run(binary("shoal"), "status", "--url", edge.address).stdout
        expect("\nbundle edge 7, on trial\n" in said, said)
        fleet.make(8, model, key="other")
        fleet.roll("8 100")
        fleet.reload()
        browser.wait("document.querySelector('#bundle').textContent.includes('Last trouble: ')", 60, "the trouble")
        told = run(binary("shoal"), "status", "--json", "--url", edge.address).stdout
        expect(json.loads(told)["bundle"]["serial"] == 7 and json.loads(told)["bundle"]["trouble"], told)
        expect(browser.complaints() == [], "the console complains")


def test_errors_are_told_in_words_and_the_key_is_asked_for():
    with Site() as site, Browser() as browser:
        _, edge = site.models()
        daemon = site.edge(edge, api__key="sesame").start()
        browser.open(daemon.address)
        browser.wait("!document.querySelector('#key').hidden", what="the question for the key")
        browser.type("#key-text", "wrong" + KEYS["Enter"])
        browser.wait("!document.querySelector('#key').hidden", what="the second question")
        browser.type("#key-text", "sesame" + KEYS["Enter"])
        browser.wait("document.querySelector('#pair').textContent.includes('at the edge')", what="the edge's name")
        expect(browser.run("return document.querySelector('#modes input[value=exact]').disabled"), "exact without a cloud")
        browser.run("document.querySelector('#prompt').value = 'word '.repeat(3000)")
        browser.type("#prompt", KEYS["Enter"])
        browser.wait("!document.querySelector('#trouble').hidden", what="the error")
        expect("tokens" in browser.text("#trouble p"), browser.text("#trouble p"))
        browser.click("#trouble button")
        expect(browser.run("return document.activeElement.id") == "prompt", "the focus is lost")
        daemon.stop()
        browser.wait("document.querySelector('#words').textContent.includes('does not answer')", what="its absence")


def test_page_fits_a_narrow_window_and_the_dark():
    with Site() as site, Browser(360, 640) as browser:
        _, edge = site.models()
        open_page(browser, site.edge(edge).start().address)
        expect(not browser.run("return document.querySelector('#side').open"), "the charts cover a narrow window")
        ask(browser, QUESTION, 1)
        expect(fits(browser), "360 pixels are not enough")
        expect(browser.run("const b = document.querySelector('#send').getBoundingClientRect();"
                           "return b.right <= innerWidth && b.bottom <= innerHeight"), "Send is out of sight")
        shoot(browser, "narrow")
        light = browser.run("return getComputedStyle(document.body).backgroundColor")
        browser.prefer(prefers_color_scheme="dark")
        expect(browser.run("return getComputedStyle(document.body).backgroundColor") != light, "no dark colours")
        browser.click("#side summary")
        expect(fits(browser), "360 pixels are not enough for the charts")
        shoot(browser, "narrow-dark")


if __name__ == "__main__":
    lacking = missing()
    if lacking:
        print(f"skipped: {lacking} is not installed (deploy/deps installs it)")
        sys.exit(77)
    main([test_page_streams_an_answer_and_tells_where_it_was_made, test_pulled_cable_is_harmless_and_plugs_back,
          test_broken_stream_goes_on_where_it_broke, test_stream_that_is_gone_is_told_and_stop_is_heard,
          test_page_and_command_line_tell_the_bundle_that_runs,
          test_errors_are_told_in_words_and_the_key_is_asked_for, test_page_fits_a_narrow_window_and_the_dark])
