// The last hour or day of all servers as charts, and one request by its id.

import { ask } from "../lib/api.js";
import { sentence } from "../lib/dialog.js";
import { count, field, h, options, say } from "../lib/dom.js";
import { lineChart } from "../lib/line-chart.js";
import { requestDetails } from "./request.js";

export const title = "Activity";

const SPANS = [["hour", "Last hour"], ["day", "Last day"]];
const ALL = "";
const number = (value) => (value >= 10 || Number.isInteger(value) ? count(value) : value.toFixed(1));
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${Math.round(value * 10) / 10} s`);

export function mount(root, session, wanted) {
  const span = h("select", {}, options(SPANS, "hour"));
  const who = h("select", {}, options([[ALL, session.tenant ? "all of yours" : "all"]], ALL));
  const charts = h("div", { class: "charts" });
  const whose = h("p", { class: "hint", role: "status" });
  root.append(
    h("div", { class: "filters" }, field("Time", span), field("Tenant or adapter", who)),
    charts,
    h("p", { class: "hint" }, "Since the servers started. A step is a minute, or a quarter of an hour; queue and KV cache are the most in a step."),
    whose,
    lookup(wanted));
  let shown = "";

  async function refresh() {
    const query = new URLSearchParams({ span: span.value, ...(who.value ? JSON.parse(who.value) : {}) });
    const history = await ask(`admin/v1/history?${query}`);
    say(whose, completeness(history));
    const signature = JSON.stringify([history.points, history.begins]);
    if (signature === shown) return;
    shown = signature;
    charts.replaceChildren(...draw(history));
  }

  async function offer() {
    const { adapters } = await ask("admin/v1/history");
    const tenants = session.tenant ? [] : [...new Set(adapters.map(([tenant]) => tenant))];
    const choices = [
      ...tenants.map((tenant) => [JSON.stringify({ tenant }), tenant || "operators"]),
      ...adapters.map(([tenant, adapter]) => [JSON.stringify({ tenant, adapter }), `${tenant || "operators"} · ${adapter || "base model"}`]),
    ];
    who.append(...options(choices, ALL));
  }

  const again = () => refresh().catch(() => {});
  span.addEventListener("change", again);
  who.addEventListener("change", again);
  offer().catch(() => {});
  return { refresh, every_s: 5 };
}

/** Of how many servers the charts are, if there are several. */
function completeness({ servers, missing }) {
  if (missing.length) return `Without ${missing.join(", ")}: no answer. What is shown is of ${servers === 1 ? "one server" : `${servers} servers`}.`;
  return servers > 1 ? `Of ${servers} servers together.` : "";
}

function draw({ points, begins, step_s }) {
  const time = { begins: Date.parse(begins), step_s };
  const of = (name) => points.map((point) => point[name]);
  const lastStep_s = (Date.now() - time.begins) / 1000 - (points.length - 1) * step_s; // it goes on
  const passed_s = Math.min(step_s, Math.max(10, lastStep_s));
  const rate = (name, per_s) => points.map((point, at) => (point[name] * per_s) / (at < points.length - 1 ? step_s : passed_s));
  const chart = (title, series, show = number) => lineChart({ title, series, show, ...time });
  return [
    chart("Requests per minute", [{ name: "all", values: rate("requests", 60) }, { name: "failed", values: rate("errors", 60) }]),
    chart("Time to the first token", [{ name: "median", values: of("ttft_p50_s") }, { name: "95 %", values: of("ttft_p95_s") }], seconds),
    chart("Tokens per second", [{ name: "generated", values: rate("generated_tokens", 1) }, { name: "prompt", values: rate("prompt_tokens", 1) }]),
    chart("Requests in the engine", [{ name: "running", values: of("running") }, { name: "waiting", values: of("waiting") }]),
    chart("KV cache, blocks", [{ name: "used", values: of("kv_blocks") }]),
  ];
}

/** A form that shows one request. */
function lookup(wanted) {
  const id = h("input", { name: "request", required: true, autocomplete: "off", spellcheck: "false", value: wanted ?? "", placeholder: "x-request-id, or the answer's id" });
  const result = h("div", { class: "request", "aria-live": "polite" });
  const form = h("form", { class: "filters lookup" }, field("Request", id), h("button", { type: "submit" }, "Look up"));
  const look = async () => {
    try {
      result.replaceChildren(requestDetails(await ask(`admin/v1/requests/${encodeURIComponent(id.value.trim())}`)));
    } catch (error) {
      result.replaceChildren(h("p", { class: "error" }, sentence(error)));
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look();
  });
  if (wanted) look();
  return h("section", { "aria-labelledby": "request-title" }, h("h2", { id: "request-title" }, "A request"), form, result);
}
