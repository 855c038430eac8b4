// The official OpenAI package of Node.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";

import * as asked from "./asked.mjs";

const client = (apiKey, maxRetries = 0) => new OpenAI({ baseURL: asked.v1, apiKey, maxRetries });
const acme = client(asked.acme);
const globex = client(asked.globex);
const greet = { model: asked.support, messages: asked.hello, temperature: 0 };

describe("openai", () => {
  test("chat", async () => {
    const answer = await acme.chat.completions.create(greet);
    assert.ok(answer.choices[0].message.content);
  });

  test("chat_responses", async () => {
    assert.ok((await acme.responses.create({ model: asked.support, input: "Hello!" })).output_text);
  });

  test("stream", async () => {
    let text = "";
    for await (const chunk of await acme.chat.completions.create({ ...greet, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? "";
    }
    assert.equal(text, (await acme.chat.completions.create(greet)).choices[0].message.content);
  });

  test("stream_responses", async () => {
    const stream = acme.responses.stream({ model: asked.support, input: "Hello!" });
    assert.ok((await stream.finalResponse()).output_text);
  });

  test("usage", async () => {
    const chunks = [];
    const ask = { ...greet, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await acme.chat.completions.create(ask)) chunks.push(chunk);
    const { usage } = await acme.chat.completions.create(greet);
    const last = chunks.pop();
    assert.deepEqual(
      [last.usage.prompt_tokens, last.usage.completion_tokens],
      [usage.prompt_tokens, usage.completion_tokens],
    );
    assert.ok(chunks.every((chunk) => chunk.usage === null));
  });

  for (const choice of ["auto", "required", "named"]) {
    for (const streamed of [false, true]) {
      test(`tools_${choice}_${streamed ? "stream" : "whole"}`, async () => {
        const ask = {
          model: asked.tools,
          messages: [{ role: "user", content: asked.question }],
          tools: [asked.weatherFunction],
          tool_choice: choice === "named" ? { type: "function", function: { name: "get_weather" } } : choice,
          temperature: 0,
        };
        const answer = streamed
          ? await globex.chat.completions.stream(ask).finalChatCompletion()
          : await globex.chat.completions.create(ask);
        const [call] = answer.choices[0].message.tool_calls;
        assert.equal(call.function.name, "get_weather");
        assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
      });
    }
  }

  test("structured_parse", async () => {
    const response_format = zodResponseFormat(asked.Order, "order");
    const answer = await acme.chat.completions.parse({ ...greet, response_format, max_tokens: 100 });
    asked.Order.parse(answer.choices[0].message.parsed);
  });

  test("structured_parse_stream", async () => {
    const response_format = zodResponseFormat(asked.Order, "order");
    const stream = acme.chat.completions.stream({ ...greet, response_format, max_tokens: 100 });
    asked.Order.parse((await stream.finalChatCompletion()).choices[0].message.parsed);
  });

  test("structured_responses_parse", async () => {
    const text = { format: zodTextFormat(asked.Order, "order") };
    const ask = { model: asked.support, input: "Hello!", text, max_output_tokens: 100 };
    asked.Order.parse((await acme.responses.parse(ask)).output_parsed);
  });

  test("structured_json_object", async () => {
    const response_format = { type: "json_object" };
    const ask = { model: asked.base, messages: asked.asJson, temperature: 0, max_tokens: 400 };
    const answer = await acme.chat.completions.create({ ...ask, response_format });
    assert.equal(typeof JSON.parse(answer.choices[0].message.content), "object");
  });

  test("errors", async () => {
    await assert.rejects(client("wrong").models.list(), OpenAI.AuthenticationError);
    await assert.rejects(acme.chat.completions.create({ ...greet, model: "nothing" }), OpenAI.NotFoundError);
    const messages = [{ role: "user", content: "fox ".repeat(9000) }];
    await assert.rejects(acme.chat.completions.create({ ...greet, messages }), OpenAI.BadRequestError);
  });

  test("retries", async () => {
    const ask = { model: asked.base, messages: asked.hello, max_tokens: 5 };
    await asked.whileOccupied(1500, async () => {
      await assert.rejects(client(asked.limited).chat.completions.create(ask), OpenAI.RateLimitError);
      const began = Date.now();
      assert.ok((await client(asked.limited, 4).chat.completions.create(ask)).choices.length);
      assert.ok(Date.now() - began >= 1000);
    });
  });
});
