// Usage over time: a chart of tokens, and the sums per adapter with their cost.

import { ask } from "../lib/api.js";
import { chart } from "../lib/chart.js";
import { count, field, h, options } from "../lib/dom.js";
import { byMost, byText, listing } from "../lib/listing.js";
import { tenantSelect } from "../lib/tenant-select.js";

export const title = "Usage";

const RANGES = { day: ["Last 24 hours", "hour", 24], week: ["Last 7 days", "day", 7], month: ["Last 30 days", "day", 30] };
const STEP_MS = { hour: 3_600_000, day: 86_400_000 };

export function mount(root, session) {
  const range = h("select", {}, options(Object.entries(RANGES).map(([name, [text]]) => [name, text]), "day"));
  const tenant = session.tenant ? null : tenantSelect(["", "all tenants"]).node;
  const picture = h("div", { class: "card chart" });
  const table = h("div", {});
  let rows = [];
  const controls = listing({
    what: "adapters", size: 25, changed: draw,
    text: (sum) => `${sum.tenant} ${sum.name}`,
    sorts: {
      tokens: ["tokens", byMost((sum) => sum.prompt + sum.generated)], requests: ["requests", byMost((sum) => sum.requests)],
      cost: ["cost", byMost((sum) => sum.cost)], blocks: ["KV block-seconds", byMost((sum) => sum.blocks)],
      name: ["name", byText((sum) => `${sum.tenant} ${sum.name}`)],
    },
  });
  root.append(
    h("div", { class: "filters" }, field("Range", range), tenant && field("Tenant", tenant)),
    picture, controls.bar, table, controls.foot);
  let shown = "";

  async function refresh() {
    const [, by, steps] = RANGES[range.value];
    const last = Math.floor(Date.now() / STEP_MS[by]) * STEP_MS[by];
    const first = last - (steps - 1) * STEP_MS[by];
    const query = new URLSearchParams({ by, from: new Date(first).toISOString() });
    if (tenant?.value) query.set("tenant", tenant.value);
    const { data } = await ask(`admin/v1/usage?${query}`);
    const signature = JSON.stringify([data, first, by]);
    if (signature === shown) return;
    shown = signature;
    picture.replaceChildren(chart(buckets(data, first, STEP_MS[by], steps), by));
    rows = sums(data);
    draw();
  }

  function draw() {
    const page = controls.pick(rows);
    table.replaceChildren(rows.length ? sumTable(page, session) : h("p", { class: "empty" }, "No usage in this period."));
  }

  const again = () => refresh().catch(() => {});
  range.addEventListener("change", again);
  tenant?.addEventListener("change", again);
  return { refresh, every_s: 5 };
}

function buckets(rows, first, step, steps) {
  const made = Array.from({ length: steps }, (_, at) => ({ at: first + at * step, prompt: 0, generated: 0, requests: 0 }));
  for (const row of rows) {
    const bucket = made[Math.floor((Date.parse(row.from) - first) / step)];
    if (!bucket) continue;
    bucket.prompt += row.prompt_tokens;
    bucket.generated += row.generated_tokens;
    bucket.requests += row.requests;
  }
  return made;
}

function sums(rows) {
  const groups = new Map();
  for (const row of rows) {
    const name = row.adapter ? `${row.adapter}@${row.version}` : "base model";
    const key = `${row.tenant}\0${name}`;
    const sum = groups.get(key) ?? { tenant: row.tenant || "operators", name, requests: 0, prompt: 0, cached: 0, generated: 0, blocks: 0, cost: 0, currency: row.currency };
    sum.requests += row.requests;
    sum.prompt += row.prompt_tokens;
    sum.cached += row.cached_tokens;
    sum.generated += row.generated_tokens;
    sum.blocks += row.kv_block_seconds;
    sum.cost += Number(row.cost); // shown rounded; the export has the exact amounts
    groups.set(key, sum);
  }
  return [...groups.values()];
}

function sumTable(rows, session) {
  const columns = [["Tenant", "tenant"], ["Adapter", "name"], ["Requests", "requests"], ["Prompt", "prompt"], ["of which cached", "cached"], ["Generated", "generated"], ["KV block-seconds", "blocks"], [`Cost (${rows[0]?.currency ?? ""})`, "cost"]]
    .slice(session.tenant ? 1 : 0);
  const shown = (sum, name) => name === "cost" ? sum.cost.toFixed(2) : typeof sum[name] === "number" ? count(sum[name]) : sum[name];
  const cell = (sum, [label, name]) => h("td", { "data-label": label, class: typeof sum[name] === "number" ? "number" : null }, shown(sum, name));
  return h("table", { class: "stacked" },
    h("caption", {}, "Tokens, requests and cost by adapter"),
    h("thead", {}, h("tr", {}, columns.map(([label, name]) => h("th", { scope: "col", class: ["tenant", "name"].includes(name) ? null : "number" }, label)))),
    h("tbody", {}, rows.map((sum) => h("tr", {}, columns.map((column) => cell(sum, column))))));
}
