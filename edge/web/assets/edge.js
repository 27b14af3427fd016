// SPDX-License-Identifier: Apache-2.0
// The edge's HTTP API, as the page uses it. Nothing here touches the document.

export class EdgeError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const RESUME_MS = 10000; // how long a broken stream is asked for again; the edge holds it for api.replay_ms
const PAUSE_MS = { first: 100, most: 2000 }; // between two such attempts

let key = sessionStorage.getItem("shoal-key") ?? "";

export function setKey(text) {
  key = text;
  sessionStorage.setItem("shoal-key", text);
}

function headers() {
  const all = { "Content-Type": "application/json" };
  if (key) all.Authorization = `Bearer ${key}`;
  return all;
}

// A refusal in the edge's own words; what has no words gets some.
async function refusal(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return new EdgeError(error.message, response.status, error.code);
  } catch {
    return new EdgeError(`The edge answered ${response.status} without a reason.`, response.status, null);
  }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new EdgeError("The edge does not answer. Is shoal-edge running?", 0, "unreachable");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export async function status() {
  return (await call("/v1/shoal/status")).json();
}

export async function cutLink(cut) {
  return (await call("/v1/shoal/link", { method: "POST", body: JSON.stringify({ cut }) })).json();
}

// Server-sent events of one response, as {event, data, id}. Lines may come in any pieces; a block that is cut is none.
async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let event = "message";
      let data = "";
      let id = null;
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data += line.slice(5).trimStart();
        else if (line.startsWith("id:")) id = line.slice(3).trim();
      }
      if (data) yield { event, data, id };
    }
  }
}

function wait(ms, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

const streamOf = (id) => `/v1/shoal/streams/${id.split(":")[0]}`;

// A refusal with a reason is final, but for that of an edge which has no room yet to go on.
function mayMend(error, last) {
  return !(error instanceof EdgeError) || error.status === 0 || (last !== null && error.status === 503);
}

// The events of a stream up to [DONE], over as many connections as it takes: one that breaks is followed by one that goes on
// behind the last event that came, so that nothing is lost and nothing comes twice. Where none came the edge has dropped the
// request with its connection, and it is sent again. onBreak(true) tells of a break, onBreak(false) that it goes on. Stopping it
// is told to the edge, to which a closed connection says that somebody comes back.
async function* stream(send, signal, onBreak) {
  let last = null;
  let until = null; // set while no event has come since a break
  let pause = 0;
  signal.addEventListener("abort", () => {
    if (last) fetch(streamOf(last), { method: "DELETE", headers: headers(), keepalive: true }).catch(() => {});
  }, { once: true });
  for (;;) {
    let trouble = new EdgeError("The connection to the edge broke in the middle of the answer.", 0, "broken");
    try {
      const response = last ? await call(streamOf(last), { signal, headers: { "Last-Event-ID": last } }) : await send();
      for await (const one of events(response)) {
        if (until !== null) onBreak(false);
        until = null;
        last = one.id ?? last;
        yield one;
        if (one.data === "[DONE]") return;
      }
    } catch (error) {
      if (signal.aborted || !mayMend(error, last)) throw error;
      if (error instanceof EdgeError) trouble = error;
    }
    if (until === null) {
      onBreak(true);
      until = performance.now() + RESUME_MS;
      pause = PAUSE_MS.first;
    } else if (performance.now() > until) {
      throw trouble;
    }
    await wait(pause, signal);
    pause = Math.min(2 * pause, PAUSE_MS.most);
  }
}

// Streams one answer, the likeliest words of it: onTokens gets each list of {id, text, tier, confidence, round, ms, unassisted};
// the result is {finish, usage}. A stream that ends without [DONE] and cannot be resumed is an error and never a short answer.
export async function chat(messages, shoal, signal, onTokens, onBreak) {
  const body = JSON.stringify({ messages, temperature: 0, stream: true, stream_options: { include_usage: true }, shoal });
  const send = () => call("/v1/chat/completions", { method: "POST", signal, body });
  const result = { finish: null, usage: null };
  for await (const { event, data } of stream(send, signal, onBreak)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (event === "error" || chunk.error) throw new EdgeError(chunk.error.message, 200, chunk.error.code);
    if (chunk.shoal?.tokens) onTokens(chunk.shoal.tokens);
    result.finish = chunk.choices[0]?.finish_reason ?? result.finish;
    result.usage = chunk.usage ?? result.usage;
  }
  return result;
}
