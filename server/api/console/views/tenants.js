// Tenants for operators: shares and limits, and the keys of one tenant.

import { ask } from "../lib/api.js";
import { confirm, notice, sentence } from "../lib/dialog.js";
import { count, field, h, options, share } from "../lib/dom.js";
import { byMost, byText, listing } from "../lib/listing.js";
import { keyList } from "./keys.js";
import { decodingForm, form, recordsForm } from "./tenant-forms.js";

export const title = "Tenants";
export const forOperators = true;

// Setting → [label, hint]; an empty field removes a limit, and leaves a share as it is.
const SETTINGS = {
  weight: ["Weight", "share of the engine's time against others"], kv_guarantee: ["KV cache guaranteed", "0 to 1"], kv_limit: ["KV cache limit", "0 to 1"],
  max_concurrency: ["Sequences at once", "empty: no limit"], rpm: ["Requests per minute", "empty: no limit"], tpm: ["Tokens per minute", "empty: no limit"],
  token_budget: ["Token budget", "empty: no limit"],
};
const SHARES = ["weight", "kv_guarantee", "kv_limit"];

export function mount(root) {
  const free = h("p", { class: "lead", role: "status" });
  const list = h("div", {});
  let tenants = [];
  let chosen = null; // the tenant whose form is open
  const controls = listing({
    what: "tenants", size: 15, text: (tenant) => tenant.name, changed: draw,
    sorts: {
      name: ["name", byText((tenant) => tenant.name)], weight: ["weight", byMost((tenant) => tenant.weight)],
      guarantee: ["KV guarantee", byMost((tenant) => tenant.kv_guarantee)],
    },
  });
  root.append(free, addForm(refresh), controls.bar, list, controls.foot);
  let shown = "";

  async function refresh() {
    const { data } = await ask("admin/v1/tenants");
    const signature = JSON.stringify(data);
    const isEdited = list.contains(document.activeElement) && document.activeElement.closest("form");
    if (signature === shown || isEdited) return; // do not replace a form that the user is editing
    shown = signature;
    tenants = data;
    const guaranteed = data.reduce((sum, tenant) => sum + tenant.kv_guarantee, 0);
    free.textContent = `${share(guaranteed)} of the KV cache is guaranteed to tenants; ${share(1 - guaranteed)} is free.`;
    draw();
  }

  function draw() {
    const page = controls.pick(tenants);
    list.replaceChildren(...page.map((tenant) => row(tenant)));
  }

  function row(tenant) {
    const isOpen = chosen === tenant.name;
    const toggle = h("button", {
      type: "button", "aria-expanded": String(isOpen), "aria-label": `${isOpen ? "Close" : "Manage"} ${tenant.name}`,
      onclick: () => {
        chosen = isOpen ? null : tenant.name;
        draw();
        [...list.querySelectorAll("[data-tenant]")].find((node) => node.dataset.tenant === tenant.name)?.querySelector("button").focus();
      },
    }, isOpen ? "Close" : "Manage");
    return h("article", { class: isOpen ? "card managed" : "managed", "data-tenant": tenant.name, "aria-label": tenant.name },
      h("div", { class: "section-head" }, h("div", {}, h("h2", {}, tenant.name), h("p", { class: "hint" }, summary(tenant))), toggle),
      isOpen ? [changeForm(tenant, refresh), decodingForm(tenant, refresh), recordsForm(tenant, refresh), keyList(tenant.name), removal(tenant, refresh)] : null);
  }

  return { refresh, every_s: 5 };
}

function summary(tenant) {
  const limits = [["rpm", "requests/min"], ["tpm", "tokens/min"], ["max_concurrency", "at once"], ["token_budget", `tokens a ${tenant.budget_period}`]]
    .filter(([name]) => tenant[name] !== null).map(([name, unit]) => `${count(tenant[name])} ${unit}`);
  const kv = tenant.kv_guarantee || tenant.kv_limit < 1 ? [`KV ${share(tenant.kv_guarantee)} to ${share(tenant.kv_limit)}`] : [];
  const records = tenant.records ? [`${share(tenant.records.share)} recorded`] : [];
  return [`weight ${tenant.weight}`, ...kv, ...limits, ...records].join(" · ");
}

function settingFields(tenant) {
  const inputs = Object.fromEntries(Object.keys(SETTINGS).map((name) => [name, h("input", { type: "number", step: SHARES.includes(name) ? "any" : "1", min: "0", value: tenant?.[name] ?? "" })]));
  const nodes = Object.entries(SETTINGS).map(([name, [label, hint]]) => field(label, inputs[name], hint));
  const period = h("select", {}, options([["month", "a month"], ["day", "a day"]], tenant?.budget_period ?? "month"));
  nodes.push(field("Token budget is for", period));
  const numbers = () => Object.entries(inputs)
    .filter(([name, input]) => input.value !== "" || !SHARES.includes(name))
    .map(([name, input]) => [name, input.value === "" ? null : Number(input.value)]);
  const values = () => ({ ...Object.fromEntries(numbers()), budget_period: period.value });
  return { nodes, values };
}

function addForm(refresh) {
  const name = h("input", { required: true, pattern: "[a-z0-9][a-z0-9_]*", maxLength: 32, autocomplete: "off", spellcheck: "false", placeholder: "initech" });
  const settings = settingFields(null);
  const node = form("settings", [field("Name", name, "small letters, digits and _"), settings.nodes], "Add tenant", async (made, leave) => {
    await ask("admin/v1/tenants", { method: "POST", body: { name: name.value, settings: settings.values() } });
    notice(`Added ${name.value}. Make a key for it next.`);
    made.reset();
    leave();
    await refresh();
  });
  return h("details", { class: "card" }, h("summary", {}, "Add a tenant"), node);
}

function changeForm(tenant, refresh) {
  const settings = settingFields(tenant);
  return form("settings", settings.nodes, "Save", async (_form, leave) => {
    const values = settings.values();
    const changes = Object.fromEntries(Object.entries(values).filter(([name, value]) => value !== tenant[name]));
    await ask(`admin/v1/tenants/${tenant.name}`, { method: "PATCH", body: changes });
    notice(`Changed ${tenant.name}.`);
    leave();
    await refresh();
  });
}

function removal(tenant, refresh) {
  return h("button", {
    type: "button", class: "quiet", onclick: async () => {
      const question = { title: `Remove ${tenant.name}?`, text: "Its keys stop working at once. Its adapters must have been removed before.", action: "Remove", danger: true };
      if (!(await confirm(question))) return;
      try {
        await ask(`admin/v1/tenants/${tenant.name}`, { method: "DELETE" });
        notice(`Removed ${tenant.name}.`);
        await refresh();
      } catch (error) {
        notice(sentence(error), { bad: true });
      }
    },
  }, "Remove this tenant");
}
