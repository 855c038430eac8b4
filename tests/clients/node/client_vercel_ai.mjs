// Vercel's AI SDK with each provider that can call us: chat completions, responses and Anthropic's messages.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, Output, RetryError, stepCountIs, streamObject, streamText, tool } from "ai";

import * as asked from "./asked.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const compatible = (apiKey) =>
  createOpenAICompatible({ name: "loragate", baseURL: asked.v1, apiKey, supportsStructuredOutputs: true, includeUsage: true });
const openai = (apiKey) => createOpenAI({ baseURL: asked.v1, apiKey });
const providers = {
  compatible: (model, key) => compatible(key)(model),
  openai_chat: (model, key) => openai(key).chat(model),
  openai_responses: (model, key) => openai(key).responses(model),
  anthropic: (model, key) => createAnthropic({ baseURL: asked.v1, apiKey: key })(model),
};
const plain = { temperature: 0, maxRetries: 0, maxOutputTokens: 100 };
const weather = tool({ description: "Current weather in a city.", inputSchema: asked.Weather });
const order = tool({ description: "Place an order.", inputSchema: asked.Order });

for (const [name, model] of Object.entries(providers)) {
  describe(name, () => {
    test(`chat_${name}`, async () => {
      assert.ok((await generateText({ ...plain, model: model(asked.support, asked.acme), prompt: "Hello!" })).text);
    });

    test(`stream_${name}`, async () => {
      const ask = { ...plain, model: model(asked.support, asked.acme), prompt: "Hello!" };
      assert.equal(await streamText(ask).text, (await generateText(ask)).text);
    });

    test(`usage_${name}`, async () => {
      const ask = { ...plain, model: model(asked.support, asked.acme), prompt: "Hello!" };
      const [streamed, whole] = [await streamText(ask).usage, (await generateText(ask)).usage];
      assert.ok(whole.outputTokens > 0);
      assert.deepEqual([streamed.inputTokens, streamed.outputTokens], [whole.inputTokens, whole.outputTokens]);
    });

    for (const choice of ["auto", "required", "named"]) {
      for (const streamed of [false, true]) {
        test(`tools_${choice}_${streamed ? "stream" : "whole"}_${name}`, async () => {
          const ask = {
            ...plain,
            model: model(asked.tools, asked.globex),
            prompt: asked.question,
            tools: { get_weather: weather },
            toolChoice: choice === "named" ? { type: "tool", toolName: "get_weather" } : choice,
          };
          const [call] = await (streamed ? streamText(ask).toolCalls : (await generateText(ask)).toolCalls);
          assert.equal(call.toolName, "get_weather");
          assert.deepEqual(call.input, { city: "Paris" });
        });
      }
    }

    test(`tools_required_keep_their_schema_${name}`, async () => {
      const ask = { ...plain, model: model(asked.tools, asked.globex), prompt: asked.question };
      const { toolCalls } = await generateText({ ...ask, tools: { order }, toolChoice: "required" });
      asked.Order.parse(toolCalls[0].input);
    });

    test(`tools_auto_with_results_${name}`, async () => {
      const run = tool({ ...weather, execute: async () => "sunny" });
      const ask = { ...plain, model: model(asked.tools, asked.globex), prompt: asked.question };
      const { steps } = await generateText({ ...ask, tools: { get_weather: run }, stopWhen: stepCountIs(2) });
      assert.equal(steps.length, 2);
    });

    test(`structured_object_${name}`, async () => {
      const ask = { ...plain, model: model(asked.support, asked.acme), prompt: "Hello!" };
      asked.Order.parse((await generateObject({ ...ask, schema: asked.Order })).object);
    });

    test(`structured_object_stream_${name}`, async () => {
      const ask = { ...plain, model: model(asked.support, asked.acme), prompt: "Hello!" };
      const stream = streamObject({ ...ask, schema: asked.Order });
      for await (const part of stream.partialObjectStream) assert.equal(typeof part, "object");
      asked.Order.parse(await stream.object);
    });

    test(`structured_output_${name}`, async () => {
      const ask = { ...plain, model: model(asked.support, asked.acme), prompt: "Hello!" };
      asked.Order.parse((await generateText({ ...ask, output: Output.object({ schema: asked.Order }) })).output);
    });

    test(`errors_${name}`, async () => {
      for (const [model_, key, status] of [[asked.support, "wrong", 401], ["nothing", asked.acme, 404]]) {
        await assert.rejects(generateText({ ...plain, model: model(model_, key), prompt: "Hello!" }), (error) => {
          assert.ok(APICallError.isInstance(error));
          return error.statusCode === status;
        });
      }
    });

    test(`retries_${name}`, async () => {
      const ask = { ...plain, model: model(asked.base, asked.limited), prompt: "Hello!", maxOutputTokens: 5 };
      await asked.whileOccupied(1500, async () => {
        await assert.rejects(generateText(ask), (error) => error.statusCode === 429 || RetryError.isInstance(error));
        const began = Date.now();
        assert.ok(await generateText({ ...ask, maxRetries: 4 }));
        assert.ok(Date.now() - began >= 1000);
      });
    });
  });
}
