// What an adapter's versions have shown on held-out chats, and the condition of its promotions.

import { ask } from "../lib/api.js";
import { h } from "../lib/dom.js";

const FIGURES = { exact: "Right", calls_right: "Calls right", json_valid: "Valid JSON", loss: "Loss", win_rate: "Win rate" };

/** The condition, and the evaluations, which are asked for when they are opened. */
export function evaluations(adapter) {
  const table = h("div", {});
  const condition = adapter.condition ? h("p", { class: "hint" }, `A version gets traffic only if ${adapter.condition}`) : null;
  const details = h("details", { class: "evaluations", ontoggle: () => details.open && show(adapter, table) }, h("summary", {}, "Evaluations"), table);
  return [condition, details];
}

async function show(adapter, table) {
  const path = `admin/v1/adapters/${encodeURIComponent(adapter.tenant)}/${encodeURIComponent(adapter.name)}/evaluations`;
  const { data } = await ask(path);
  const heads = ["Version", "State", ...Object.values(FIGURES), "Turns", "Chats"];
  table.replaceChildren(
    data.length
      ? h("table", { class: "stacked" },
        h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, data.map(row)))
      : h("p", { class: "empty" }, `Not evaluated yet: loragate adapter evaluate ${adapter.model}@VERSION --data FILE`));
}

function row(evaluation) {
  const figures = evaluation.figures ?? {};
  const state = evaluation.state === "running" ? `running, ${evaluation.done} of ${evaluation.turns ?? "?"}` : evaluation.state;
  const fault = evaluation.error ?? figures.not_judged;
  return h("tr", {},
    h("td", { "data-label": "Version" }, h("strong", {}, `v${evaluation.version}`)),
    h("td", { "data-label": "State" }, state, fault ? h("p", { class: "error" }, fault) : null),
    Object.entries(FIGURES).map(([name, label]) => h("td", { "data-label": label }, String(figures[name] ?? "–"))),
    h("td", { "data-label": "Turns" }, String(evaluation.turns ?? "–")),
    h("td", { "data-label": "Chats" }, h("code", {}, evaluation.data_digest.slice(0, 12))));
}
