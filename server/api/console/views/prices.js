// The price list: what tokens cost whom from which hour on. Operators change it; a tenant's admin reads its own.

import { ask } from "../lib/api.js";
import { confirm, notice, sentence } from "../lib/dialog.js";
import { field, h, options } from "../lib/dom.js";
import { byText, listing } from "../lib/listing.js";
import { tenantSelect } from "../lib/tenant-select.js";

export const title = "Prices";

const AMOUNTS = ["prompt", "cached", "generated"];

export function mount(root, session) {
  const list = h("div", {});
  const lead = h("p", { class: "lead" }, "Per million tokens, from the start of an hour (UTC) on. The nearest price holds: an adapter's, its tenant's, or everybody's.");
  let prices = [];
  const controls = listing({
    what: "prices", size: 20, changed: draw, text: (price) => `${scopeName(price)} ${price.tenant} ${price.adapter}`,
    sorts: { name: ["name", byText(scopeName)], newest: ["newest", (a, b) => Date.parse(b.valid_from) - Date.parse(a.valid_from)] },
    filters: [{ label: "Show", choices: { now: ["now and later", (price) => price.state !== "past"], all: ["all", () => true] } }],
  });
  const edit = session.tenant ? null : priceForm(refresh);
  root.append(lead, edit?.node ?? "", controls.bar, list, controls.foot);
  let shown = "";

  async function refresh() {
    const { data } = await ask("admin/v1/prices");
    const signature = JSON.stringify([data, Math.floor(Date.now() / 60_000)]);
    if (signature === shown) return;
    shown = signature;
    prices = withStates(data);
    draw();
  }

  function draw() {
    const page = controls.pick(prices);
    list.replaceChildren(prices.length ? table(page, edit && { change: edit.fill, act }) : h("p", { class: "empty" }, "There is no price yet: everything costs 0."));
  }

  async function act(question, path, init) {
    if (!(await confirm(question))) return;
    try {
      await ask(path, init);
      await refresh();
    } catch (error) {
      notice(sentence(error), { bad: true });
    }
  }

  return { refresh, every_s: 5 };
}

const scopeName = (price) => (price.tenant ? (price.adapter ? `${price.tenant}-${price.adapter}` : price.tenant) : "everybody");
const hour = (iso) => `${new Date(iso).toISOString().slice(0, 16).replace("T", " ")} UTC`;

/** Each price with its state: `now`, `later` or `past`; of a scope, the last one that has begun holds. */
function withStates(prices) {
  const now = Date.now();
  const holds = new Map();
  for (const price of prices) {
    const begins = Date.parse(price.valid_from);
    if (begins <= now && begins >= (holds.get(scopeName(price)) ?? 0)) holds.set(scopeName(price), begins);
  }
  const state = (price) => {
    const begins = Date.parse(price.valid_from);
    if (begins > now) return "later";
    return begins === holds.get(scopeName(price)) ? "now" : "past";
  };
  return prices.map((price) => ({ ...price, state: state(price) }));
}

function table(prices, hands) {
  const heads = ["For", "From", "Prompt", "Cached", "Generated", "State"];
  const amount = (price, name) => (price[name] === null ? "ends" : `${price[name]} ${price.currency}`);
  const cell = (label, text, number) => h("td", { "data-label": label, class: number ? "number" : null }, text);
  return h("table", { class: "stacked" },
    h("caption", {}, "Price list"),
    h("thead", {}, h("tr", {}, heads.map((text, at) => h("th", { scope: "col", class: at > 1 && at < 5 ? "number" : null }, text)), hands ? h("td", {}) : null)),
    h("tbody", {}, prices.map((price) => h("tr", {},
      cell("For", scopeName(price)), cell("From", hour(price.valid_from)),
      AMOUNTS.map((name, at) => cell(heads[at + 2], amount(price, name), true)),
      cell("State", price.state === "now" ? "holds now" : price.state === "later" ? "will hold" : "past"),
      hands ? h("td", { class: "act" }, h("div", { class: "actions" }, buttons(price, hands))) : null))));
}

function buttons(price, { change, act }) {
  const name = scopeName(price);
  const scope = { tenant: price.tenant, adapter: price.adapter };
  const made = [];
  if (price.state !== "past" && price.prompt !== null) {
    made.push(h("button", { type: "button", "aria-label": `Change the price for ${name}`, onclick: () => change(price) }, "Change"));
  }
  if (price.state === "now" && price.tenant && price.prompt !== null) {
    const question = { title: `End the price for ${name}?`, text: "From the next hour on the next nearest price holds.", action: "End" };
    made.push(h("button", { type: "button", "aria-label": `End the price for ${name}`, onclick: () => act(question, "admin/v1/prices", { method: "POST", body: { ...scope, ends: true } }) }, "End"));
  }
  if (price.state === "later") {
    const question = { title: `Remove the price for ${name}?`, text: `It would hold from ${hour(price.valid_from)} on.`, action: "Remove", danger: true };
    const query = new URLSearchParams({ ...scope, valid_from: price.valid_from });
    made.push(h("button", { type: "button", "aria-label": `Remove the price for ${name} from ${hour(price.valid_from)}`, onclick: () => act(question, `admin/v1/prices?${query}`, { method: "DELETE" }) }, "Remove"));
  }
  return made;
}

function priceForm(refresh) {
  const { node: tenant, choose } = tenantSelect(["", "everybody"]);
  const adapter = h("select", {}, options([["", "all models"]], ""));
  const amounts = Object.fromEntries(AMOUNTS.map((name) => [name, h("input", { inputMode: "decimal", autocomplete: "off", required: name !== "cached" })]));
  const from = h("input", { type: "datetime-local", step: "3600" });
  const backdate = h("input", { type: "checkbox", id: "backdate" });
  const status = h("p", { class: "error", role: "status" });
  const form = h("form", { class: "settings" },
    field("Tenant", tenant), field("Adapter", adapter),
    field("Prompt", amounts.prompt, "per million tokens"), field("Cached", amounts.cached, "empty: as prompt"), field("Generated", amounts.generated, "per million tokens"),
    field("From (UTC)", from, "empty: the next hour"),
    h("div", { class: "actions" }, h("div", { class: "check" }, backdate, h("label", { htmlFor: "backdate" }, "Allow an hour in the past; usage counted already costs something else then"))),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Set the price"), status));
  const node = h("details", { class: "card" }, h("summary", {}, "Set a price"), form);

  async function offerAdapters(chosen = "") {
    const of = tenant.value;
    adapter.replaceChildren(...options([["", "all models"], ...(chosen ? [chosen] : [])], chosen));
    if (!of) return;
    const { data } = await ask(`admin/v1/adapters?${new URLSearchParams({ tenant: of })}`);
    if (tenant.value !== of) return; // another one was chosen meanwhile
    adapter.append(...options(data.map((row) => row.name).filter((name) => name !== chosen), null));
  }

  async function fill(price) {
    node.open = true;
    status.textContent = "";
    await choose(price.tenant);
    for (const name of AMOUNTS) amounts[name].value = price[name];
    from.value = price.state === "later" ? new Date(price.valid_from).toISOString().slice(0, 16) : "";
    await offerAdapters(price.adapter).catch(() => {});
    amounts.prompt.focus();
  }

  tenant.addEventListener("input", () => offerAdapters().catch((error) => notice(sentence(error), { bad: true })));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = { tenant: tenant.value, adapter: adapter.value, backdate: backdate.checked };
    for (const name of AMOUNTS) if (amounts[name].value.trim()) body[name] = amounts[name].value.trim();
    if (from.value) body.valid_from = `${from.value.slice(0, 16)}:00Z`;
    try {
      const made = await ask("admin/v1/prices", { method: "POST", body });
      status.textContent = "";
      form.reset();
      await offerAdapters();
      notice(`The price for ${scopeName(made)} holds from ${hour(made.valid_from)} on.`);
      await refresh();
    } catch (error) {
      status.textContent = sentence(error);
    }
  });
  return { node, fill };
}
