// SPDX-License-Identifier: Apache-2.0
// The page: conversation, controls and the words beside them. Text goes in as text, never as markup.

import { chat, cutLink, EdgeError, setKey, status } from "./edge.js";
import { Chart } from "./charts.js";

const $ = (id) => document.getElementById(id);
const TIERS = ["exit", "edge", "cloud"];
const TIER_WORDS = { exit: "edge, early exit", edge: "edge, full depth", cloud: "cloud" };
const WHY = { away: "the cloud was not within reach", budget: "the budget for the cloud is spent" };
const UNSURE = 0.5; // below it a token is also set in italics
const ROOMY = 2048; // tokens of context from which a conversation is remembered unless told otherwise
const POLL_MS = 1000;
const PATIENCE_MS = 1500; // how long an answer waits for a lost cloud before the edge goes on alone

// What the family of deploy/models was made for; other models get no examples.
const FAMILY = "minnow";
const EXAMPLES = ["What does H40 mean on the Tapir 10?", "Raven 20 shows D12, what should I do?"];

const messages = [];
let now = null; // the last status
let before = null; // the one before, with its time
let running = null; // AbortController of the answer under way
let live = null; // {n, broken, and tokens by tier} of the answer under way

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/* --- errors, in words ------------------------------------------------------------------------- */

function complain(error) {
  if (error instanceof EdgeError && error.status === 401) {
    $("key").hidden = false;
    $("key-text").focus();
    return;
  }
  $("trouble").firstElementChild.textContent = error.message;
  $("trouble").hidden = false;
}

$("trouble").querySelector("button").addEventListener("click", () => {
  $("trouble").hidden = true;
  $("prompt").focus();
});

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key-text").value);
  $("key").hidden = true;
  $("key-text").value = "";
  $("prompt").focus();
  poll();
});

/* --- tokens ------------------------------------------------------------------------------------ */

function percent(x) {
  return `${Math.round(100 * x)} %`;
}

function describe(token) {
  const parts = [`${percent(token.confidence)} sure${token.confidence < UNSURE ? " (italic: less than half)" : ""}`];
  if (token.round) parts.push(`round ${token.round}`);
  parts.push(`${token.ms < 100 ? token.ms.toFixed(1) : Math.round(token.ms)} ms after sending`);
  const alone = token.unassisted ? `, for want of the cloud: ${WHY[token.unassisted] ?? token.unassisted}` : "";
  return { where: TIER_WORDS[token.tier] + alone, how: parts.join(" · ") };
}

const facts = new WeakMap(); // span to token

function addTokens(text, tokens) {
  for (const token of tokens) {
    if (!token.text) continue;
    const span = make("span", token.confidence < UNSURE ? "tok unsure" : "tok", token.text);
    span.dataset.tier = token.tier;
    if (token.unassisted) span.dataset.unassisted = token.unassisted;
    facts.set(span, token);
    text.append(span);
  }
}

let shown = null;

function hideTip() {
  shown?.classList.remove("here");
  shown = null;
  $("tip").hidden = true;
}

function showTip(span, speak) {
  const token = facts.get(span);
  if (!token) return;
  shown?.classList.remove("here");
  shown = span;
  span.classList.add("here");
  const { where, how } = describe(token);
  const tip = $("tip");
  tip.replaceChildren(make("b", "", where), how);
  tip.hidden = false;
  const box = span.getClientRects()[0];
  const left = Math.max(6, Math.min(box.left, innerWidth - tip.offsetWidth - 6));
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  if (speak) $("spoken").textContent = `${span.textContent.trim() || "space"}: ${where}, ${how}`;
}

const tokenOf = (event) => (event.target instanceof Element ? event.target.closest("#log .tok") : null);

$("log").addEventListener("pointerover", (event) => {
  const span = tokenOf(event);
  if (span) showTip(span, false);
  else hideTip();
});
$("log").addEventListener("pointerleave", hideTip);
$("log").addEventListener("click", (event) => {
  const span = tokenOf(event);
  if (span) showTip(span, true);
});
$("log").addEventListener("scroll", hideTip);

// An answer is one stop of the Tab key; arrows walk through its tokens.
$("log").addEventListener("keydown", (event) => {
  const answer = event.target.closest(".answer");
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Escape") hideTip();
  if (!answer || step === undefined) return;
  const spans = [...answer.querySelectorAll(".tok")];
  if (spans.length === 0) return;
  const at = spans.indexOf(shown);
  const next = at < 0 ? (step > 0 ? 0 : spans.length - 1) : at + step;
  event.preventDefault();
  showTip(spans[Math.max(0, Math.min(spans.length - 1, next))], true);
});
$("log").addEventListener("focusout", hideTip);

/* --- asking ------------------------------------------------------------------------------------ */

function mode() {
  return document.querySelector("#modes input:checked")?.value ?? "local";
}

function count(n, word) {
  return `${n} ${word}${n === 1 ? "" : "s"}`;
}

function summary(usage, seconds) {
  const { tiers, first_token_ms: first, bytes_up: up, bytes_down: down } = usage.shoal;
  const made = TIERS.filter((t) => tiers[t] > 0).map((t) => `${tiers[t]} ${t === "exit" ? "early exit" : t}`);
  const words = [`${count(usage.completion_tokens, "token")}: ${made.join(", ")}`, `first after ${Math.round(first)} ms`];
  words.push(`${Math.round(usage.completion_tokens / seconds)} tokens/s`);
  if (usage.shoal.unassisted > 0) words.push(`${usage.shoal.unassisted} for want of the cloud`);
  words.push(up + down > 0 ? `${up} bytes up, ${down} down` : "nothing left the device");
  return words.join(" · ");
}

function bar(tiers) {
  const element = make("div", "bar");
  element.setAttribute("aria-hidden", "true");
  for (const t of TIERS) {
    if (!tiers[t]) continue;
    const part = make("i");
    part.style.flex = String(tiers[t]);
    part.style.background = `var(--${t})`;
    element.append(part);
  }
  return element;
}

function busy(controller) {
  running = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("new").disabled = controller !== null;
  $("log").setAttribute("aria-busy", String(controller !== null));
}

function nearEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 80;
}

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

async function ask(prompt) {
  $("hello").hidden = true;
  $("trouble").hidden = true;
  const mine = make("div", "message mine");
  mine.append(make("span", "sr", "You: "), prompt);
  const answer = make("article", "message answer live");
  answer.tabIndex = 0;
  answer.setAttribute("aria-label", "Answer; the arrow keys tell where each token was made");
  const text = make("p", "text");
  answer.append(text);
  $("log").append(mine, answer);
  toEnd();

  const asked = [...($("remembers").checked ? messages : []), { role: "user", content: prompt }];
  live = { n: 0, broken: false, exit: 0, edge: 0, cloud: 0 };
  const started = performance.now();
  busy(new AbortController());
  try {
    const done = await chat(asked, { mode: mode(), degrade: true, reconnect_ms: PATIENCE_MS }, running.signal, (tokens) => {
      const follow = nearEnd();
      addTokens(text, tokens);
      if (tokens.some((t) => t.unassisted)) $("alone").hidden = false;
      for (const t of tokens) {
        live.n += 1;
        live[t.tier] += 1;
      }
      if (follow) toEnd();
    }, (broken) => {
      live.broken = broken;
      if (now) $("words").textContent = sentence();
    });
    messages.push(asked.at(-1), { role: "assistant", content: text.textContent });
    answer.append(bar(done.usage.shoal.tiers), make("p", "facts", summary(done.usage, (performance.now() - started) / 1000)));
    if (done.finish === "length") answer.append(make("p", "facts", "The answer stopped at its length limit."));
  } catch (error) {
    if (error.name === "AbortError") {
      answer.append(make("p", "cut", "Stopped."));
    } else {
      answer.append(make("p", "cut", "This answer is not complete."));
      complain(error);
    }
    if (!text.textContent) text.remove();
  } finally {
    answer.classList.remove("live");
    live = null;
    busy(null);
    if (nearEnd()) toEnd();
  }
}

function grow() {
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${$("prompt").scrollHeight + 2}px`;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (!prompt || running) return;
  $("prompt").value = "";
  grow();
  ask(prompt);
});
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => {
  running?.abort();
  $("prompt").focus();
});
addEventListener("pagehide", () => running?.abort());
$("new").addEventListener("click", () => {
  messages.length = 0;
  for (const old of $("log").querySelectorAll(".message")) old.remove();
  $("hello").hidden = false;
  hideTip();
  $("prompt").focus();
});
for (const example of EXAMPLES) {
  const item = make("li");
  const button = make("button", "", example);
  button.type = "button";
  button.addEventListener("click", () => {
    if (!running) ask(example);
  });
  item.append(button);
  $("examples").append(item);
}

/* --- link -------------------------------------------------------------------------------------- */

function showLink(cloud) {
  const button = $("cable");
  const state = !cloud.configured ? "none" : cloud.cut ? "cut" : cloud.link;
  const words = { none: "No cloud", cut: "Plug back in", ready: "Pull the cable", idle: "Pull the cable" }[state] ?? `Link ${state}`;
  button.dataset.link = state;
  $("cable-text").textContent = cloud.switch || state === "none" ? words : `Link ${cloud.link}`;
  button.setAttribute("aria-checked", String(cloud.cut));
  button.setAttribute("aria-label", `Cut the link to the cloud, to see the edge alone. Now: ${cloud.cut ? "cut" : state}`);
  button.disabled = !cloud.switch || state === "none";
  button.title = cloud.switch
    ? "Cuts the edge's link to the cloud, for everyone, until it is plugged back in"
    : "Start shoal-edge with api.link_switch: true to cut the link from here";
}

$("cable").addEventListener("click", async () => {
  try {
    await cutLink($("cable").getAttribute("aria-checked") !== "true");
    await poll();
  } catch (error) {
    complain(error);
  }
});

/* --- what is happening ------------------------------------------------------------------------- */

const charts = {
  rate: new Chart($("charts"), "Tokens per second", [
    { name: "early exit", line: 0 },
    { name: "edge", line: 1 },
    { name: "cloud", line: 2 },
  ]),
  saved: new Chart($("charts"), "Cloud work saved", [{ name: "against cloud alone", line: 1 }], { max: 100, unit: " %", hold: true }),
  accepted: new Chart($("charts"), "Drafts accepted", [{ name: "of those judged", line: 2 }], { max: 100, unit: " %", hold: true }),
  trip: new Chart($("charts"), "Round trip", [{ name: "draft to verdict", line: 1 }], { unit: " ms" }),
  bytes: new Chart($("charts"), "Over the link", [
    { name: "up", line: 1 },
    { name: "down", line: 2 },
  ], { unit: " B/s" }),
};

// Every sum counts up; the first sample, and a restart of the edge, start anew.
function since(name, seconds) {
  const read = (s) => name.split(".").reduce((o, k) => o[k], s.totals);
  return Math.max(0, (read(now) - read(before)) / seconds);
}

function size(bytes) {
  if (bytes < 1000) return `${Math.round(bytes)} B`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function share(part, whole) {
  return whole > 0 ? (100 * part) / whole : null;
}

function chart(seconds) {
  const rates = TIERS.map((t) => since(`tokens.${t}`, seconds));
  const all = rates.reduce((a, b) => a + b, 0);
  charts.rate.push(rates, `${all < 10 ? all.toFixed(1) : Math.round(all)} now`);
  const t = now.totals;
  const made = t.tokens.exit + t.tokens.edge + t.tokens.cloud;
  const saved = share(made - t.cloud_steps, made);
  charts.saved.push([share(Math.max(0, all - since("cloud_steps", seconds)), all)],
    saved === null ? "nothing yet" : `${Math.round(saved)} % since start`);
  const accepted = share(t.accepted, t.drafted);
  charts.accepted.push([share(since("accepted", seconds), since("drafted", seconds))],
    accepted === null ? "no drafts yet" : `${Math.round(accepted)} % since start`);
  const trip = now.cloud.round_trip_ms;
  charts.trip.push([trip], trip === null ? "no cloud yet" : `${trip.toFixed(1)} ms`);
  const bytes = t.packet_bytes_up > 0 ? "packet_bytes" : "bytes"; // what the network carries, where the kernel tells
  const up = since(`${bytes}_up`, seconds);
  const down = since(`${bytes}_down`, seconds);
  charts.bytes.push([up, down], `${size(t[`${bytes}_up`])} up, ${size(t[`${bytes}_down`])} down`);
}

function sentence() {
  const { cloud, totals, requests } = now;
  if (live?.broken) return `The connection to the edge broke. The page asks ${live.n > 0 ? "for the rest of the answer" : "again"}.`;
  if (cloud.cut) {
    return live ? "The cable is pulled. The edge goes on alone." : "The cable is pulled. Answers come from the edge alone.";
  }
  if (live && mode() === "local") return "The edge answers alone. Nothing leaves the device.";
  if (live && mode() === "cloud") return "The cloud generates; the edge passes it on.";
  if (live && mode() === "assist") {
    if (cloud.given_up) return "The edge goes on alone: the cloud did not answer.";
    return "The edge speaks while it is sure and hands over to the cloud where it is not.";
  }
  const accepted = totals.drafted > 0 ? `The cloud agreed with ${Math.round(share(totals.accepted, totals.drafted))} of 100 drafts.` : "";
  if (live) return `The edge drafts, the cloud judges every token. ${accepted}`;
  if (requests.active > 0) return `${count(requests.active, "request")} under way. ${accepted}`;
  if (!cloud.configured) return "No cloud is configured: everything is answered here.";
  if (cloud.link === "down") return "The cloud cannot be reached. Mode local still answers.";
  if (totals.requests === 0) return "Ready. Nothing has been asked yet.";
  return `Idle. ${count(totals.requests, "request")} answered since the start. ${accepted}`;
}

// Which bundle of its fleet the edge runs, where it is of one.
function showBundle(bundle) {
  $("bundle").hidden = !bundle;
  if (!bundle) return;
  const words = [bundle.serial > 0 ? `Runs bundle ${bundle.serial} of its fleet` : "Runs the model it was installed with"];
  if (bundle.trial) words.push("on trial until its first answers were good");
  if (bundle.phase !== "idle") words.push(`${bundle.phase} another`);
  $("bundle").textContent = `${words.join(", ")}.${bundle.trouble ? ` Last trouble: ${bundle.trouble}` : ""}`;
}

function showModes(status) {
  for (const input of document.querySelectorAll("#modes input")) {
    input.disabled = input.value !== "local" && !status.cloud.configured;
  }
  if (!document.querySelector("#modes input:checked")) {
    const wanted = document.querySelector(`#modes input[value="${status.mode}"]`);
    (wanted && !wanted.disabled ? wanted : document.querySelector('#modes input[value="local"]')).checked = true;
  }
}

function show() {
  const cloud = now.cloud;
  $("examples").hidden = !now.model.id.startsWith(FAMILY);
  $("pair").textContent = cloud.name ? `${now.model.id} at the edge, ${cloud.name} in the cloud` : `${now.model.id} at the edge`;
  showModes(now);
  showLink(cloud);
  showBundle(now.bundle);
  $("words").textContent = sentence();
}

let polling = null;

async function poll() {
  clearTimeout(polling);
  const at = performance.now();
  try {
    const next = await status();
    const restarted = now && next.uptime_s < now.uptime_s;
    if (!now) $("remembers").checked = next.model.context >= ROOMY;
    before = now && !restarted ? now : { ...next, at: at - POLL_MS };
    now = { ...next, at };
    show();
    chart(Math.max(0.2, (now.at - before.at) / 1000));
  } catch (error) {
    if (error.status === 401) {
      complain(error);
      return; // asked again when there is a key
    }
    $("pair").textContent = "not connected";
    $("words").textContent = error.message;
  }
  polling = setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

if (matchMedia("(max-width: 860px)").matches) $("side").open = false;
poll();
