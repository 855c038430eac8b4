// One request: what it asked for, where its time went, and how it ended.

import { count, h, moment } from "../lib/dom.js";

const milliseconds = (value) => (value >= 10_000 ? `${(value / 1000).toFixed(1)} s` : `${count(value)} ms`);

export function requestDetails({ at, options, request, server }) {
  const asked = Object.entries(options).map(([name, value]) => `${name} ${value}`).join(", ");
  const rows = [
    ["Ended", moment(at)],
    ["Result", `${request.status ?? 200}${request.code ? ` ${request.code}` : ""}${request.finish_reason ? `, finished by ${request.finish_reason}` : ""}`],
    ["Tenant, key", `${request.tenant || "operators"}, ${request.key_prefix}… (${request.key_id})`],
    ["Model", request.adapter ? `${request.model} (version ${request.version})` : request.model],
    ["Asked", `${request.path}${request.stream ? ", streamed" : ""}`],
    ["Options it set", asked || "none"],
    ["Tokens", request.completion_tokens === null ? null : `${count(request.prompt_tokens)} prompt (${count(request.cached_tokens)} cached) + ${count(request.completion_tokens)} generated`],
    ["Server", h("span", { class: "id" }, server)],
    ["Trace", request.trace_id],
    ["Request", h("span", { class: "id" }, request.request_id)],
  ];
  return h("div", { class: "card" },
    times(request),
    h("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}

/** A bar of where the time went, with the same in words. */
function times(request) {
  const whole = request.total_ms ?? request.run_ms;
  if (!whole) return null;
  const wait = (request.lease_ms ?? 0) + (request.queue_ms ?? 0);
  const first = request.ttft_ms === null ? null : Math.max(0, request.ttft_ms - wait);
  const rest = Math.max(0, whole - wait - (first ?? 0));
  const parts = [["waiting", wait], [first === null ? null : "to the first token", first], [first === null ? "until it ended" : "generating", rest]]
    .filter(([name, value]) => name && value > 0);
  const summary = parts.map(([name, value]) => `${name} ${milliseconds(value)}`).join(" · ");
  return h("div", { class: "times" },
    h("div", { class: "bar", role: "img", "aria-label": summary }, parts.map(([, value], number) => h("i", { class: `part-${number}`, style: { flexGrow: String(value) } }))),
    h("p", {}, `${milliseconds(whole)}: ${summary}`));
}
