// What each client is asked to do: the same as in ../python/conftest.py.
import { setTimeout as sleep } from "node:timers/promises";

import { z } from "zod";

export const url = process.env.CLIENTS_URL;
export const v1 = `${url}/v1`;
export const [support, tools, base] = ["acme-support", "globex-tools", "loragate-demo"];
export const [acme, globex, limited] = ["demo-acme", "demo-globex", process.env.CLIENTS_LIMITED_KEY];
export const hello = [{ role: "user", content: "Hello!" }];
export const question = "What is the weather in Paris?";
export const asJson = [{ role: "user", content: "Write as JSON: day Thursday, item chairs" }];
export const Weather = z.strictObject({ city: z.string() });
// The demo model knows no orders: only a server that enforces the schema gets one out of it.
export const Order = z.strictObject({ size: z.enum(["small", "large"]), gift: z.boolean() });
export const weatherFunction = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Current weather in a city.",
    parameters: z.toJSONSchema(Weather),
  },
};

/** Uses the only place of the limited tenant for so many milliseconds while `work` runs. */
export async function whileOccupied(milliseconds, work) {
  const leave = new AbortController();
  const answer = await fetch(`${v1}/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${limited}`, "content-type": "application/json" },
    body: JSON.stringify({ model: base, prompt: "One", max_tokens: 4000, stream: true, ignore_eos: true }),
    signal: leave.signal,
  });
  await answer.body.getReader().read();
  const left = sleep(milliseconds).then(() => leave.abort());
  try {
    return await work();
  } finally {
    await left;
    await sleep(300);
  }
}
