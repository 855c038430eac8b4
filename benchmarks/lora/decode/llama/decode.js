// Decodes with llama.cpp: reads {"streams", "tokens", "seed"} lines, writes {"tokens_per_s"} lines.
// usage: node decode.js MODEL.gguf THREADS MAX_STREAMS
import readline from "node:readline";
import { getLlama } from "node-llama-cpp";

const PROMPT_TOKENS = 8;
const [modelPath, threads, maxStreams] = process.argv.slice(2);

const llama = await getLlama({ gpu: false, build: "never", maxThreads: Number(threads), logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  sequences: Number(maxStreams),
  contextSize: 512,
  batchSize: 512,
  threads: Number(threads),
});
const sequences = Array.from({ length: Number(maxStreams) }, () => context.getSequence());

async function generate(sequence, tokens, seed, place) {
  await sequence.clearHistory();
  const prompt = Array.from({ length: PROMPT_TOKENS }, (_, index) => 1000 + ((seed * 7919 + place * 104729 + index * 31) % 50000));
  const times = [];
  for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    times.push(performance.now());
    if (times.length === tokens) break;
  }
  return times;
}

// Tokens per second while all sequences generate: without the prompts and without a shrinking batch.
function rate(streams) {
  const began = Math.max(...streams.map((times) => times[0]));
  const ended = Math.min(...streams.map((times) => times.at(-1)));
  const inside = streams.flat().filter((time) => time > began && time <= ended).length;
  return (1000 * inside) / (ended - began);
}

console.log(JSON.stringify({ ready: true }));
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { streams, tokens, seed } = JSON.parse(line);
  const found = await Promise.all(sequences.slice(0, streams).map((each, place) => generate(each, tokens, seed, place)));
  console.log(JSON.stringify({ tokens_per_s: rate(found) }));
}
