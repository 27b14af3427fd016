// SPDX-License-Identifier: Apache-2.0
// The clients people use, as they come: openai, the ai SDK, LangChain. argv: base URL, model, key.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI, OpenAI as LangChainCompletion } from "@langchain/openai";
import { generateText, jsonSchema, streamText } from "ai";
import OpenAI from "openai";

const [baseURL, model, apiKey] = process.argv.slice(2);
const question = "What does H40 mean on the Tapir 10?";
const messages = [{ role: "user", content: question }];
let failed = 0;

async function check(name, test) {
  try {
    await test();
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${error.stack}`);
  }
}

const openai = new OpenAI({ baseURL, apiKey });
let expected = "";

await check("openai lists the models", async () => {
  const page = await openai.models.list();
  assert.deepEqual(page.data.map((m) => m.id), [model]);
  assert.equal((await openai.models.retrieve(model)).object, "model");
});

await check("openai answers a chat with its usage", async () => {
  const answer = await openai.chat.completions.create({ model, messages, temperature: 0, max_completion_tokens: 48 });
  expected = answer.choices[0].message.content;
  assert.ok(expected.length > 0);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

await check("openai streams the same text, one finish, usage last", async () => {
  const stream = await openai.chat.completions.create({
    model, messages, temperature: 0, max_completion_tokens: 48, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  const ids = new Set();
  const ends = [];
  let last = null;
  for await (const chunk of stream) {
    ids.add(chunk.id);
    text += chunk.choices[0]?.delta.content ?? "";
    if (chunk.choices[0]?.finish_reason) ends.push(chunk.choices[0].finish_reason);
    last = chunk;
  }
  assert.equal(text, expected);
  assert.equal(ids.size, 1);
  assert.equal(ends.length, 1);
  assert.deepEqual(last.choices, []);
  assert.ok(last.usage.completion_tokens > 0);
});

await check("openai's stream helper gathers the whole message", async () => {
  const stream = openai.chat.completions.stream({ model, messages, temperature: 0, max_completion_tokens: 48 });
  assert.equal((await stream.finalMessage()).content, expected);
});

await check("openai gives the same answer for the same seed", async () => {
  const one = () => openai.completions.create({ model, prompt: "Motor", seed: 7, temperature: 1, max_tokens: 12 });
  assert.equal((await one()).choices[0].text, (await one()).choices[0].text);
});

await check("openai stops where it is told to", async () => {
  const stop = expected.slice(4, 7);
  const answer = await openai.chat.completions.create({ model, messages, temperature: 0, stop: [stop] });
  assert.equal(answer.choices[0].message.content, expected.slice(0, expected.indexOf(stop)));
  assert.equal(answer.choices[0].finish_reason, "stop");
});

const parameters = {
  type: "object", additionalProperties: false, required: ["code", "urgent"],
  properties: { code: { type: "string", minLength: 1, maxLength: 6 }, urgent: { type: "boolean" } },
};
const tools = [{ type: "function", function: { name: "open_ticket", description: "Opens a ticket.", strict: true, parameters } }];

function checkCall(call) {
  assert.equal(call.function.name, "open_ticket");
  const given = JSON.parse(call.function.arguments);
  assert.deepEqual(Object.keys(given).sort(), ["code", "urgent"]);
  assert.ok(typeof given.urgent === "boolean" && given.code.length >= 1 && given.code.length <= 6);
}

await check("openai calls a tool", async () => {
  const answer = await openai.chat.completions.create({ model, messages, tools, tool_choice: "required", seed: 1 });
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  assert.equal(answer.choices[0].message.tool_calls.length, 1);
  checkCall(answer.choices[0].message.tool_calls[0]);
});

await check("openai's stream helper gathers the call of a tool", async () => {
  const tool_choice = { type: "function", function: { name: "open_ticket" } };
  const stream = openai.chat.completions.stream({ model, messages, tools, tool_choice, seed: 2 });
  const message = await stream.finalMessage();
  checkCall(message.tool_calls[0]);
});

await check("openai runs tools and hands their results back", async () => {
  let n = 0;
  const runner = openai.chat.completions.runTools({
    model, messages, seed: 3, max_completion_tokens: 120, tool_choice: { type: "function", function: { name: "open_ticket" } },
    tools: [{ type: "function", function: { name: "open_ticket", description: "Opens a ticket.", parameters, parse: JSON.parse,
      function: (given) => { n += 1; return `ticket for ${given.code}`; } } }],
  });
  await runner.done();
  assert.equal(n, 1);
});

await check("openai reads logprobs, whole and streamed", async () => {
  const shoal = { mode: "local" };
  const wanted = { model, messages, temperature: 0, max_completion_tokens: 16, logprobs: true, top_logprobs: 2, shoal };
  const answer = await openai.chat.completions.create(wanted);
  const content = answer.choices[0].logprobs.content;
  assert.equal(new TextDecoder().decode(new Uint8Array(content.flatMap((t) => t.bytes))), answer.choices[0].message.content);
  const streamed = [];
  for await (const chunk of await openai.chat.completions.create({ ...wanted, stream: true })) {
    streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []));
  }
  assert.deepEqual(streamed, content);
});

await check("openai's errors are of its own classes, with code and param", async () => {
  await assert.rejects(openai.chat.completions.create({ model: "nobody", messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    return error.code === "model_not_found";
  });
  await assert.rejects(openai.chat.completions.create({ model, messages, n: 3 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    return error.param === "n" && error.code === "unsupported_parameter";
  });
  await assert.rejects(new OpenAI({ baseURL, apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError);
  await assert.rejects(openai.embeddings.create({ model, input: "x" }), OpenAI.NotFoundError);
});

await check("openai's abort ends the stream", async () => {
  const stream = await openai.chat.completions.create({ model, messages, stream: true, max_completion_tokens: 200 });
  let n = 0;
  for await (const _ of stream) {
    n += 1;
    if (n === 2) stream.controller.abort();
  }
  assert.ok(n >= 2);
});

const provider = createOpenAICompatible({ name: "shoal", baseURL, apiKey, includeUsage: true });

await check("ai generates text", async () => {
  const { text, usage } = await generateText({ model: provider(model), prompt: question, temperature: 0, maxOutputTokens: 48 });
  assert.equal(text, expected);
  assert.ok(usage.outputTokens > 0);
});

await check("ai calls a tool", async () => {
  const { toolCalls } = await generateText({
    model: provider(model), prompt: question, seed: 4, toolChoice: "required",
    tools: { open_ticket: { description: "Opens a ticket.", inputSchema: jsonSchema(parameters) } },
  });
  assert.equal(toolCalls.length, 1);
  checkCall({ function: { name: toolCalls[0].toolName, arguments: JSON.stringify(toolCalls[0].input) } });
});

await check("ai streams text", async () => {
  const { textStream, usage } = streamText({ model: provider(model), prompt: question, temperature: 0, maxOutputTokens: 48 });
  let text = "";
  for await (const part of textStream) text += part;
  assert.equal(text, expected);
  assert.ok((await usage).outputTokens > 0);
});

await check("LangChain invokes a chat", async () => {
  const chat = new ChatOpenAI({ model, temperature: 0, maxTokens: 48, apiKey, configuration: { baseURL } });
  const answer = await chat.invoke(question);
  assert.equal(answer.content, expected);
  assert.ok(answer.usage_metadata.output_tokens > 0);
});

await check("LangChain calls a tool", async () => {
  const chat = new ChatOpenAI({ model, apiKey, configuration: { baseURL } });
  const answer = await chat.bindTools(tools, { tool_choice: "required" }).invoke(question);
  assert.equal(answer.tool_calls.length, 1);
  checkCall({ function: { name: answer.tool_calls[0].name, arguments: JSON.stringify(answer.tool_calls[0].args) } });
});

await check("LangChain streams a chat", async () => {
  const chat = new ChatOpenAI({ model, temperature: 0, maxTokens: 48, apiKey, configuration: { baseURL } });
  let text = "";
  for await (const chunk of await chat.stream([["system", "Be short."], ["human", question]])) text += chunk.content;
  assert.ok(text.length > 0);
});

await check("LangChain completes a text", async () => {
  const completion = new LangChainCompletion({ model, temperature: 0, maxTokens: 8, apiKey, configuration: { baseURL } });
  assert.ok((await completion.invoke("Motor")).length > 0);
});

process.exit(failed ? 1 : 0);
