// SPDX-License-Identifier: Apache-2.0
// The edge's HTTP API, as the page uses it. Nothing here touches the document.

export class EdgeError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

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
    response = await fetch(path, { ...options, headers: headers() });
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

// Server-sent events of a response, as {event, data}. Lines may come in any pieces.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let event = "message";
      let data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data += line.slice(5).trimStart();
      }
      yield { event, data };
    }
  }
}

// Streams one answer, the likeliest words of it: onTokens gets each list of {id, text, tier, confidence, round, ms}; the result is
// {finish, usage}. A stream that ends without [DONE] was cut, which is an error and never a short answer.
export async function chat(messages, shoal, signal, onTokens) {
  const response = await call("/v1/chat/completions", {
    method: "POST",
    signal,
    body: JSON.stringify({ messages, temperature: 0, stream: true, stream_options: { include_usage: true }, shoal: { on_disconnect: "cancel", ...shoal } }),
  });
  const result = { finish: null, usage: null };
  for await (const { event, data } of events(response)) {
    if (data === "[DONE]") return result;
    const chunk = JSON.parse(data);
    if (event === "error" || chunk.error) throw new EdgeError(chunk.error.message, 200, chunk.error.code);
    if (chunk.shoal?.tokens) onTokens(chunk.shoal.tokens);
    result.finish = chunk.choices[0]?.finish_reason ?? result.finish;
    result.usage = chunk.usage ?? result.usage;
  }
  throw new EdgeError("The connection to the edge broke in the middle of the answer.", 0, "broken");
}
