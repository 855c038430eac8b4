// The current state: KV cache per tenant, running and waiting requests, and failed requests.

import { ask } from "../lib/api.js";
import { notice } from "../lib/dialog.js";
import { count, h, moment, say, share } from "../lib/dom.js";
import { byMost, byText, listing } from "../lib/listing.js";

export const title = "Overview";

export function mount(root, session) {
  const figures = h("dl", { class: "figures" });
  const rows = h("ul", { class: "tenants" });
  const failures = h("div", { class: "failures" });
  const known = new Map();
  let live = { tenants: [] };
  let errors = [];
  const load = (tenant) => tenant.running + tenant.waiting;
  const name = (tenant) => tenant.tenant || "operators";
  const tenants = listing({
    what: "tenants", size: 15, text: name, changed: drawTenants,
    sorts: { busy: ["requests now", byMost(load)], kv: ["KV cache", byMost((tenant) => tenant.kv_blocks)], name: ["name", byText(name)] },
    filters: [{ label: "Show", choices: { all: ["all", () => true], busy: ["busy", isBusy], idle: ["idle", (tenant) => !isBusy(tenant)] } }],
  });
  const failed = listing({
    what: "failures", size: 15, changed: drawFailures,
    text: (error) => `${error.tenant} ${error.model} ${error.path} ${error.status} ${error.code} ${error.request_id}`,
    filters: [{ label: "Cause", choices: { all: ["any", () => true], server: ["server", (error) => error.cause === "server"], caller: ["caller", (error) => error.cause === "caller"] } }],
  });
  root.append(
    figures,
    h("section", { "aria-labelledby": "kv-title" },
      h("div", { class: "section-head" },
        h("h2", { id: "kv-title" }, "KV cache by tenant"),
        h("p", { class: "legend", "aria-hidden": "true" },
          h("span", { class: "key used" }, "used"), h("span", { class: "key guarantee" }, "guaranteed"), h("span", { class: "key limit" }, "limit")),
      ),
      tenants.bar, rows, tenants.foot),
    h("section", { "aria-labelledby": "errors-title" },
      h("h2", { id: "errors-title" }, "Failed requests"), failed.bar, failures, failed.foot),
  );
  let shown = "";

  async function refresh() {
    const [now, lately] = await Promise.all([ask("admin/v1/live"), ask("admin/v1/errors")]);
    live = now;
    showFigures(figures, live, session);
    drawTenants();
    const signature = JSON.stringify(lately.data);
    if (signature === shown) return;
    shown = signature;
    errors = lately.data;
    drawFailures();
  }

  function drawTenants() {
    const present = live.tenants.filter((tenant) => tenant.tenant !== "" || isBusy(tenant));
    showTenants(rows, known, tenants.pick(present), live);
    if (!present.length) rows.replaceChildren(h("li", { class: "empty" }, "There are no tenants yet: loragate tenant add."));
  }

  function drawFailures() {
    const page = failed.pick(errors);
    failures.replaceChildren(errors.length ? failureList(page, session) : h("p", { class: "empty" }, "No failed requests since the server started."));
  }

  return { refresh, every_s: 1 };
}

const isBusy = (tenant) => Boolean(tenant.kv_blocks || tenant.running || tenant.waiting);

function showFigures(list, live, session) {
  const sum = (name) => live.tenants.reduce((total, tenant) => total + tenant[name], 0);
  const whole = scale(live, live.tenants[0]);
  const figures = [
    ["Running", count(sum("running")), "requests in the engine"],
    ["Waiting", count(sum("waiting")), "in the queue"],
    ["KV cache", share(sum("kv_blocks") / whole), session.tenant ? "of your limit" : `of ${count(whole)} blocks`],
    ["Adapters loaded", count(live.adapters_loaded), session.tenant ? "of yours" : `of ${count(live.adapters_capacity)} places`],
  ];
  figures.forEach(([name, value, hint], at) => {
    const cell = list.children[at] ?? list.appendChild(h("div", {}, h("dt"), h("dd", { class: "figure" }), h("dd", { class: "hint" })));
    [name, value, hint].forEach((text, part) => say(cell.children[part], text));
  });
}

/** The blocks of a full bar: the cache, or the tenant's limit when the tenant may not see the cache size. */
const scale = (live, tenant) => live.capacity?.kv_blocks ?? tenant.limit_blocks;

function showTenants(list, known, page, live) {
  list.querySelector(".empty")?.remove();
  for (const [name, row] of known) {
    if (!page.some((tenant) => tenant.tenant === name)) {
      row.node.remove();
      known.delete(name);
    }
  }
  page.forEach((tenant, at) => {
    if (!known.has(tenant.tenant)) known.set(tenant.tenant, tenantRow(tenant.tenant));
    const row = known.get(tenant.tenant);
    row.update(tenant, scale(live, tenant));
    row.node.classList.toggle("idle", !isBusy(tenant));
    if (list.children[at] !== row.node) list.insertBefore(row.node, list.children[at] ?? null);
  });
}

function tenantRow(name) {
  const label = name || "operators";
  const guarantee = h("span", { class: "guarantee" });
  const used = h("span", { class: "used" });
  const beyond = h("span", { class: "beyond" });
  const bar = h("div", { class: "bar", role: "meter", "aria-label": `KV cache of ${label}`, "aria-valuemin": "0" }, beyond, guarantee, used);
  const blocks = h("p", { class: "blocks" });
  const running = h("strong", {});
  const waiting = h("strong", {});
  const node = h("li", { class: "tenant", "data-tenant": name },
    h("h3", {}, label),
    h("p", { class: "counts" }, running, " running", h("span", { class: "gap" }), waiting, " waiting"),
    bar,
    blocks,
  );

  function update(tenant, whole) {
    const part = (value) => `${Math.min(100, (100 * value) / whole)}%`;
    used.style.width = part(tenant.kv_blocks);
    used.style.minWidth = tenant.kv_blocks ? "4px" : "0"; // keep small values visible
    guarantee.style.width = part(tenant.guaranteed_blocks);
    beyond.style.left = part(tenant.limit_blocks);
    node.classList.toggle("limited", tenant.limit_blocks < whole);
    node.classList.toggle("at-limit", tenant.kv_blocks >= tenant.limit_blocks);
    bar.setAttribute("aria-valuemax", tenant.limit_blocks);
    bar.setAttribute("aria-valuenow", tenant.kv_blocks);
    const summary = `${count(tenant.kv_blocks)} blocks used · ${count(tenant.guaranteed_blocks)} guaranteed · limit ${count(tenant.limit_blocks)}`;
    bar.setAttribute("aria-valuetext", summary);
    say(blocks, summary);
    say(running, count(tenant.running));
    say(waiting, count(tenant.waiting));
  }

  return { node, update };
}

function failureList(errors, session) {
  const copy = async (id) => {
    await navigator.clipboard.writeText(id).then(() => notice(`Copied ${id}`), () => notice(id));
  };
  return h("table", { class: "stacked" },
    h("thead", {}, h("tr", {}, ["When", !session.tenant && "Tenant", "Model", "Error", "Cause", "Request"].filter(Boolean).map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, errors.map((error) => h("tr", {},
      h("td", { "data-label": "When" }, moment(error.at)),
      !session.tenant && h("td", { "data-label": "Tenant" }, error.tenant || "–"),
      h("td", { "data-label": "Model" }, error.model || error.path),
      h("td", { "data-label": "Error" }, h("span", { class: "code" }, `${error.status} ${error.code}`)),
      h("td", { "data-label": "Cause" }, error.cause),
      h("td", { "data-label": "Request" }, h("button", { type: "button", class: "id", title: "Copy", onclick: () => copy(error.request_id) }, error.request_id),
        " ", h("a", { href: `#activity/${encodeURIComponent(error.request_id)}`, "aria-label": `Details of request ${error.request_id}` }, "Details")),
    ))),
  );
}
