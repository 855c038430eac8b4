// Budgets of tenants and keys: what is spent and left. Operators change all; a tenant's admin those of its keys.

import { ask } from "../lib/api.js";
import { confirm, notice, sentence } from "../lib/dialog.js";
import { count, day, field, h, options } from "../lib/dom.js";
import { byMost, byText, listing } from "../lib/listing.js";
import { tenantSelect } from "../lib/tenant-select.js";

export const title = "Budgets";

export function mount(root, session) {
  const lead = h("p", { class: "lead", role: "status" });
  const list = h("div", {});
  const spent = h("div", {});
  let budgets = [];
  let costs = [];
  const controls = listing({
    what: "budgets", size: 20, changed: draw, text: (budget) => `${ownerName(budget)} ${budget.tenant} ${budget.key} ${budget.budget}`,
    sorts: { used: ["most used", byMost((budget) => budget.percent)], name: ["name", byText(ownerName)] },
    filters: [{ label: "Of", choices: { all: ["tenants and keys", () => true], tenants: ["tenants", (budget) => !budget.key], keys: ["keys", (budget) => budget.key] } }],
  });
  const costControls = listing({
    what: "keys", size: 15, changed: draw, text: (cost) => `${cost.tenant} ${cost.name} ${cost.key}`,
    sorts: { cost: ["cost", byMost((cost) => cost.cost)], name: ["name", byText((cost) => `${cost.tenant} ${cost.name}`)] },
  });
  const edit = budgetForm(session, refresh);
  root.append(lead, edit.node, controls.bar, list, controls.foot, h("section", { "aria-label": "Spent this month" }, costControls.bar, spent, costControls.foot));
  let shown = "";

  async function refresh() {
    const [states, keys, usage] = await Promise.all([ask("admin/v1/budgets"), ask("admin/v1/keys"), ask("admin/v1/usage/keys?by=month")]);
    const signature = JSON.stringify([states.data, keys.data, usage.data]);
    if (signature === shown) return;
    shown = signature;
    const names = new Map(keys.data.map((key) => [key.account, key.note || `${key.prefix}…`])); // the newest key of an account is the last
    budgets = states.data.map((budget) => ({ ...budget, name: names.get(budget.key) ?? budget.key }));
    costs = sums(usage.data, names);
    const total = costs.reduce((sum, row) => sum + row.cost, 0);
    lead.textContent = `${total.toFixed(2)} ${usage.data[0]?.currency ?? ""} spent since the month began (UTC).`.replace("  ", " ");
    draw();
  }

  function draw() {
    const page = controls.pick(budgets);
    const mayChange = (budget) => budget.budget === "money_budget" && budget.tenant && (!session.tenant || budget.key);
    list.replaceChildren(budgets.length ? table(page, mayChange, edit.fill, removal) : h("p", { class: "empty" }, "There is no budget yet."));
    const rows = costControls.pick(costs);
    spent.replaceChildren(costs.length ? costTable(rows, session) : h("p", { class: "empty" }, "Nothing was used this month."));
  }

  async function removal(budget) {
    const question = { title: `Remove the budget of ${ownerName(budget)}?`, text: "Nothing limits then what it spends.", action: "Remove", danger: true };
    if (!(await confirm(question))) return;
    try {
      await change(budget.tenant, budget.key, { money_budget: null });
      await refresh();
    } catch (error) {
      notice(sentence(error), { bad: true });
    }
  }

  return { refresh, every_s: 5 };
}

const ownerName = (budget) => (budget.key ? `${budget.name} (key${budget.tenant ? ` of ${budget.tenant}` : ""})` : budget.tenant);

function amount(budget, value) {
  if (budget.currency === null) return `${count(Number(value))} tokens`;
  return `${Number(value).toFixed(2)} ${budget.currency}`; // shown rounded; the API has the exact amounts
}

const left = (budget) => amount(budget, Math.max(0, Number(budget.allowed) - Number(budget.used)));

/** Change the tenant's own limits, or those of the valid keys that count under this account. */
async function change(tenant, account, changes) {
  if (!account) return ask(`admin/v1/tenants/${tenant}`, { method: "PATCH", body: changes });
  const { data } = await ask(`admin/v1/keys?${new URLSearchParams({ tenant })}`);
  const isValid = (key) => [key.expires_at, key.revoked_at].every((end) => end === null || Date.parse(end) > Date.now());
  const keys = data.filter((key) => key.account === account && isValid(key));
  return Promise.all(keys.map((key) => ask(`admin/v1/keys/${key.id}`, { method: "PATCH", body: changes })));
}

function table(budgets, mayChange, fill, remove) {
  const heads = ["Of", "Period", "Spent", "Left", "Budget", "Used"];
  const cell = (at, ...content) => h("td", { "data-label": heads[at], class: at > 1 && at < 5 ? "number" : null }, content);
  const until = (budget) => `${budget.period}, until ${day(new Date(Date.parse(budget.ends) - 1))}`;
  const bar = (budget) => h("div", { class: `spent${budget.percent >= 100 ? " over" : ""}` },
    h("div", { class: "bar", "aria-hidden": "true" }, h("span", { class: "used", style: { width: `${Math.min(100, budget.percent)}%` } })), `${budget.percent} %`);
  return h("table", { class: "stacked" },
    h("caption", {}, "Budgets in their present period"),
    h("thead", {}, h("tr", {}, heads.map((text, at) => h("th", { scope: "col", class: at > 1 && at < 5 ? "number" : null }, text)), h("td", {}))),
    h("tbody", {}, budgets.map((budget) => h("tr", {},
      cell(0, ownerName(budget)), cell(1, until(budget)), cell(2, amount(budget, budget.used)), cell(3, left(budget)), cell(4, amount(budget, budget.allowed)), cell(5, bar(budget)),
      h("td", { class: "act" }, mayChange(budget) ? h("div", { class: "actions" },
        h("button", { type: "button", "aria-label": `Change the budget of ${ownerName(budget)}`, onclick: () => fill(budget) }, "Change"),
        h("button", { type: "button", "aria-label": `Remove the budget of ${ownerName(budget)}`, onclick: () => remove(budget) }, "Remove")) : null)))));
}

function sums(rows, names) {
  const groups = new Map();
  for (const row of rows) {
    const id = `${row.tenant}\0${row.key}`;
    const sum = groups.get(id) ?? { tenant: row.tenant || "operators", key: row.key, name: names.get(row.key) ?? (row.key || "not known"), requests: 0, cost: 0, currency: row.currency };
    sum.requests += row.requests;
    sum.cost += Number(row.cost);
    groups.set(id, sum);
  }
  return [...groups.values()];
}

function costTable(rows, session) {
  const heads = [["Tenant", (row) => row.tenant], ["Key", (row) => row.name], ["Requests", (row) => count(row.requests)], [`Cost (${rows[0]?.currency ?? ""})`, (row) => row.cost.toFixed(2)]].slice(session.tenant ? 1 : 0);
  const isNumber = (label) => label === "Requests" || label.startsWith("Cost");
  return h("table", { class: "stacked" },
    h("caption", {}, "Spent this month, by key"),
    h("thead", {}, h("tr", {}, heads.map(([label]) => h("th", { scope: "col", class: isNumber(label) ? "number" : null }, label)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, heads.map(([label, text]) => h("td", { "data-label": label, class: isNumber(label) ? "number" : null }, text(row)))))));
}

function budgetForm(session, refresh) {
  const select = session.tenant ? null : tenantSelect(["", "choose"]);
  const tenant = select?.node ?? h("select", {}, options([session.tenant], session.tenant));
  const owner = h("select", { required: Boolean(session.tenant) });
  const money = h("input", { inputMode: "decimal", autocomplete: "off", required: true, placeholder: "25.00" });
  const period = h("select", {}, options([["month", "a month"], ["day", "a day"]], "month"));
  const status = h("p", { class: "error", role: "status" });
  const form = h("form", { class: "settings" },
    session.tenant ? null : field("Tenant", tenant), field("Owner", owner), field("Budget in money", money, "in the currency of the prices"), field("Is for", period, "also of its token budget"),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Set the budget"), status));
  const node = h("details", { class: "card" }, h("summary", {}, "Set a budget"), form);
  tenant.required = true;

  async function offerOwners(chosen = "", name = "") {
    const own = session.tenant ? [["", "choose a key"]] : [["", "the whole tenant"]];
    const of = tenant.value;
    owner.replaceChildren(...options([...own, ...(chosen ? [[chosen, name]] : [])], chosen));
    if (!of) return;
    const { data } = await ask(`admin/v1/keys?${new URLSearchParams({ tenant: of })}`);
    if (tenant.value !== of) return; // another one was chosen meanwhile
    const valid = data.filter((key) => [key.expires_at, key.revoked_at].every((end) => end === null || Date.parse(end) > Date.now()));
    const offered = new Map(valid.filter((key) => key.account !== chosen).map((key) => [key.account, `${key.note || "key"} ${key.prefix}…`]));
    owner.append(...options([...offered], null));
  }

  async function fill(budget) {
    node.open = true;
    status.textContent = "";
    await select?.choose(budget.tenant);
    money.value = budget.allowed;
    period.value = budget.period;
    await offerOwners(budget.key, budget.name).catch(() => {});
    money.focus();
  }

  tenant.addEventListener("input", () => offerOwners().catch((error) => notice(sentence(error), { bad: true })));
  node.addEventListener("toggle", () => node.open && !owner.options.length && offerOwners().catch(() => {}));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await change(tenant.value, owner.value, { money_budget: money.value.trim(), budget_period: period.value });
      status.textContent = "";
      notice("The budget holds within half a second.");
      form.reset();
      await offerOwners();
      await refresh();
    } catch (error) {
      status.textContent = sentence(error);
    }
  });
  return { node, fill };
}
