// One JSON line for each test, in the form of ../python/conftest.py; the suite's name is the client's.
export default async function* report(source) {
  for await (const { type, data } of source) {
    if (!["test:pass", "test:fail"].includes(type) || data.nesting !== 1) continue;
    const client = data.file?.match(/client_(\w+)\.mjs$/)?.[1] ?? "node";
    const error = data.details?.error;
    const message = type === "test:pass" ? "" : String(error?.cause?.message || error?.message);
    const outcome = type === "test:pass" ? "passed" : "failed";
    yield JSON.stringify({ client, test: data.name, outcome, message: message.replace(/\s+/g, " ").slice(0, 300) }) + "\n";
  }
}
