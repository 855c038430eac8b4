// Who changed what and when: searched on the server, page by page, and saved as CSV.

import { ask } from "../lib/api.js";
import { notice, sentence } from "../lib/dialog.js";
import { count, field, h, moment, options } from "../lib/dom.js";

export const title = "Changes";
export const forOperators = true;

const PAGE = innerWidth < 720 ? 12 : 25;
/** Entries of one export, and of each request for it. */
const MOST = 10_000;
const PART = 1000;
const ACTIONS = [["", "all"], ["tenant.", "tenants"], ["key.", "keys"], ["version.", "versions"], ["alias.", "traffic"], ["price.", "prices"], ["webhook.", "webhooks"]];
const COLUMNS = ["at", "actor", "key_id", "action", "subject", "details"];

export function mount(root) {
  const search = h("input", { type: "search", placeholder: "actor, action, or what was changed", autocomplete: "off", spellcheck: "false" });
  const action = h("select", {}, options(ACTIONS, ""));
  const from = h("input", { type: "date" });
  const to = h("input", { type: "date" });
  const save = h("button", { type: "button" }, "Save as CSV");
  const list = h("div", {});
  const newer = h("button", { type: "button", onclick: () => turn(-1) }, "Newer");
  const older = h("button", { type: "button", onclick: () => turn(1) }, "Older");
  root.append(
    h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
      field("Search", search), field("About", action), field("From", from), field("To", to), save),
    list, h("div", { class: "list-foot" }, newer, older));
  let starts = [null]; // the id before which each page begins, up to the current one
  let shown = "";

  function query(before, limit) {
    const asked = { limit: String(limit) };
    if (search.value.trim()) asked.search = search.value.trim();
    if (action.value) asked.action = action.value;
    if (from.value) asked.from = new Date(`${from.value}T00:00`).toISOString();
    if (to.value) asked.to = new Date(Date.parse(`${to.value}T00:00`) + 86_400_000).toISOString();
    if (before) asked.before = String(before);
    return `admin/v1/audit?${new URLSearchParams(asked)}`;
  }

  async function refresh() {
    const { data } = await ask(query(starts.at(-1), PAGE + 1));
    const signature = JSON.stringify([data, starts.length]);
    if (signature === shown) return;
    shown = signature;
    const page = data.slice(0, PAGE);
    list.replaceChildren(page.length ? table(page) : h("p", { class: "empty" }, "No change matches."));
    newer.disabled = starts.length === 1;
    older.disabled = data.length <= PAGE;
    older.dataset.before = page.at(-1)?.id ?? "";
  }

  const again = () => refresh().catch((error) => notice(sentence(error), { bad: true }));
  function turn(by) {
    starts = by > 0 ? [...starts, older.dataset.before] : starts.slice(0, -1);
    again();
  }
  for (const control of [search, action, from, to]) {
    control.addEventListener("input", () => {
      starts = [null];
      again();
    });
  }
  save.addEventListener("click", async () => {
    try {
      const entries = [];
      for (;;) {
        const { data } = await ask(query(entries.at(-1)?.id, PART));
        entries.push(...data);
        if (data.length < PART || entries.length >= MOST) break;
      }
      const url = URL.createObjectURL(new Blob([csv(entries)], { type: "text/csv" }));
      h("a", { href: url, download: "changes.csv" }).click();
      URL.revokeObjectURL(url);
      notice(`Saved ${count(entries.length)} changes${entries.length >= MOST ? "; narrow the search for the older ones" : ""}.`);
    } catch (error) {
      notice(sentence(error), { bad: true });
    }
  });
  return { refresh, every_s: 5 };
}

function csv(entries) {
  const cell = (value) => {
    const text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [COLUMNS, ...entries.map((entry) => COLUMNS.map((name) => entry[name]))].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

function table(entries) {
  const details = (entry) => Object.entries(entry.details).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  return h("table", { class: "stacked" },
    h("thead", {}, h("tr", {}, ["When", "Who", "What", "Of what", "Details"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, entries.map((entry) => h("tr", {},
      h("td", { "data-label": "When" }, moment(entry.at)),
      h("td", { "data-label": "Who" }, h("div", { title: entry.key_id ?? "" }, entry.actor)),
      h("td", { "data-label": "What" }, h("span", { class: "code" }, entry.action)),
      h("td", { "data-label": "Of what", class: "said" }, entry.subject),
      h("td", { "data-label": "Details", class: "said" }, details(entry) || "–"),
    ))));
}
