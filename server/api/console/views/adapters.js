// Adapters and their versions: traffic, state, and the buttons that change the traffic.

import { ask } from "../lib/api.js";
import { bytes, h, moment, share } from "../lib/dom.js";
import { evaluations } from "./evaluations.js";
import { byMost, byText, listing } from "../lib/listing.js";
import { publishForm } from "./publish.js";
import { splitForm } from "./split.js";
import { act, change, shares, usable } from "./traffic.js";

export const title = "Adapters";

const CARDS = 8;
/** Versions that a card shows before one asks for more. */
const VERSIONS = 5;

const isSplit = (adapter) => adapter.alias.targets.length > 1;
const hasFailed = (adapter) => adapter.versions.some((version) => version.state === "failed" || version.damaged || version.drifted);
const newest = (adapter) => Math.max(0, ...adapter.versions.map((version) => Date.parse(version.created_at)));
const inUse = (adapter) => adapter.versions.reduce((sum, version) => sum + (version.slot?.holders ?? 0), 0);

export function mount(root, session) {
  const list = h("div", { class: "adapter-list" });
  const shown = new Map(); // model -> { node, signature }
  const form = publishForm(session, refresh);
  let adapters = [];
  const controls = listing({
    what: "adapters", size: CARDS, changed: draw,
    text: (adapter) => adapter.model,
    sorts: { name: ["name", byText((adapter) => adapter.model)], use: ["requests now", byMost(inUse)], added: ["newest version", byMost(newest)] },
    filters: [{ label: "Show", choices: {
      all: ["all", () => true],
      loaded: ["in the engine", (adapter) => adapter.versions.some((version) => version.state === "resident")],
      split: ["split traffic", isSplit],
      failed: ["with a failure", hasFailed],
      idle: ["without traffic", (adapter) => !adapter.alias.targets.length],
    } }],
  });
  root.append(form, controls.bar, list, controls.foot);

  async function refresh() {
    adapters = (await ask("admin/v1/adapters")).data;
    form.suggestNames(adapters);
    draw();
  }

  function draw() {
    const page = controls.pick(adapters);
    for (const [model, entry] of shown) {
      if (!page.some((adapter) => adapter.model === model)) {
        entry.node.remove();
        shown.delete(model);
      }
    }
    list.querySelector(".empty")?.remove();
    page.forEach((adapter, at) => {
      showAdapter(adapter);
      const { node } = shown.get(adapter.model);
      if (list.children[at] !== node) list.insertBefore(node, list.children[at] ?? null);
    });
    if (!adapters.length) list.append(h("p", { class: "empty" }, "No adapters yet. Publish the first one above."));
  }

  function showAdapter(adapter) {
    const signature = JSON.stringify(adapter);
    const before = shown.get(adapter.model);
    if (before?.signature === signature) return;
    if (before?.node.querySelector("form.split")?.contains(document.activeElement)) return; // do not replace a form that the user is editing
    const state = before?.state ?? { versions: VERSIONS };
    const again = () => {
      shown.get(adapter.model).signature = ""; // draws this card with more versions
      draw();
    };
    const node = card(adapter, refresh, { ...session, ...state, more: () => { state.versions += 20; again(); } });
    const focused = before?.node.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    if (before) before.node.replaceWith(node);
    else list.append(node);
    shown.set(adapter.model, { node, signature, state });
    if (focused) (node.querySelector(`[data-focus="${focused}"]`) ?? node.querySelector("h2")).focus();
  }

  return { refresh, every_s: 2 };
}

function card(adapter, refresh, view) {
  const serving = shares(adapter.alias);
  const versions = [...adapter.versions].sort((a, b) => b.number - a.number).filter((version) => version.state !== "retired" || serving.has(version.number));
  const retired = adapter.versions.length - versions.length;
  const rows = versions.filter((version, at) => at < view.versions || serving.has(version.number));
  const more = h("button", {
    type: "button", class: "quiet", "data-focus": "more", onclick: view.more,
  }, `Show more of ${versions.length} versions`);
  const rollback = h("button", {
    type: "button", "data-focus": "rollback", disabled: adapter.alias.generation < 2,
    onclick: () => change(adapter, "rollback", {}, {
      title: `Roll ${adapter.model} back?`,
      text: "All traffic returns to the previous version. Requests in flight finish on their current version.",
      action: "Roll back", danger: true, done: `${adapter.model} was rolled back.`,
    }, refresh),
  }, "Roll back");
  return h("article", { class: "card adapter", "aria-label": adapter.model, "data-model": adapter.model },
    h("div", { class: "section-head" }, h("h2", { tabIndex: -1 }, adapter.model), rollback),
    trafficBar(serving),
    h("table", { class: "stacked versions" },
      h("thead", {}, h("tr", {}, ["Version", "Traffic", "State", "Rank", "Size", "Added", ""].map((text) => (text ? h("th", { scope: "col" }, text) : h("td", {}))))),
      h("tbody", {}, rows.map((version) => versionRow(adapter, version, serving, refresh, !view.tenant)))),
    rows.length < versions.length ? more : null,
    retired ? h("p", { class: "hint" }, `${retired} retired ${retired === 1 ? "version is" : "versions are"} not shown.`) : null,
    usable(adapter).length > 1 ? splitForm(adapter, serving, refresh) : null,
    evaluations(adapter),
  );
}

function trafficBar(serving) {
  if (!serving.size) return h("p", { class: "empty" }, "No version serves traffic yet.");
  const entries = [...serving].sort((a, b) => b[1] - a[1]);
  const summary = entries.map(([number, part]) => `version ${number}: ${share(part)}`).join(", ");
  return h("div", { class: "traffic", role: "img", "aria-label": `Traffic: ${summary}` },
    entries.map(([number, part]) => h("span", { style: { flexGrow: String(part) } }, h("b", {}, `v${number}`), entries.length > 1 ? ` ${share(part)}` : "")));
}

function versionRow(adapter, version, serving, refresh, isOperator) {
  const part = serving.get(version.number) ?? 0;
  const promote = h("button", {
    type: "button", "data-focus": `promote-${version.number}`, "aria-label": `Promote version ${version.number} of ${adapter.model}`,
    onclick: () => change(adapter, "promote", { version: version.number }, {
      title: `Promote version ${version.number}?`,
      text: `It takes all traffic of ${adapter.model} after it is loaded and has answered a probe. Requests in flight finish on their current version.`,
      action: "Promote", done: `${adapter.model} is served by version ${version.number}.`,
    }, refresh),
  }, "Promote");
  const can = ["ready", "resident"].includes(version.state) && part < 1;
  const loaded = version.state === "resident";
  const buttons = [...upkeep(adapter, version, part, refresh, isOperator), can ? promote : null].filter(Boolean);
  return h("tr", {},
    h("td", { "data-label": "Version" }, h("strong", {}, `v${version.number}`), version.pinned ? h("span", { class: "hint" }, " pinned") : null),
    h("td", { "data-label": "Traffic" }, part ? share(part) : "–"),
    h("td", { "data-label": "State" },
      h("div", {}, h("span", { class: `dot ${version.state}`, "aria-hidden": "true" }), loaded ? "in the engine" : version.state,
        version.error ? h("p", { class: "error" }, version.error) : null,
        version.recipe ? h("p", { class: "hint" }, recipeText(version.recipe)) : null,
        version.warnings?.map((warning) => h("p", { class: "hint" }, String(warning))))),
    h("td", { "data-label": "Rank" }, version.rank ?? "–"),
    h("td", { "data-label": "Size" }, bytes(version.size_bytes)),
    h("td", { "data-label": "Added" }, moment(version.created_at)),
    h("td", { class: "act" }, buttons.length ? h("div", { class: "actions" }, buttons) : null),
  );
}

/** Operators pin a version, so that it stays in the engine; a version without traffic can be removed. */
function upkeep(adapter, version, part, refresh, isOperator) {
  const name = `version ${version.number} of ${adapter.model}`;
  const path = `${adapter.tenant}/${adapter.name}/versions/${version.number}`;
  const canServe = ["ready", "resident"].includes(version.state);
  const pin = h("button", {
    type: "button", class: "quiet", "data-focus": `pin-${version.number}`, "aria-label": `${version.pinned ? "Unpin" : "Pin"} ${name}`,
    onclick: () => act(`${path}/pin`, version.pinned ? "DELETE" : "PUT", { done: `${adapter.model}@${version.number} is ${version.pinned ? "no longer pinned" : "pinned: it stays in the engine"}.` }, refresh),
  }, version.pinned ? "Unpin" : "Pin");
  const remove = h("button", {
    type: "button", class: "quiet", "data-focus": `remove-${version.number}`, "aria-label": `Remove ${name}`,
    onclick: () => act(path, "DELETE", {
      done: `${adapter.model}@${version.number} is removed.`,
      question: { title: `Remove version ${version.number}?`, text: "Its files are deleted when its last request has ended. It can only be added again.", action: "Remove", danger: true },
    }, refresh),
  }, "Remove");
  return [isOperator && canServe ? pin : null, part || !canServe ? null : remove];
}

function recipeText(recipe) {
  const parts = recipe.of.map((part) => `${part.adapter} v${part.version} × ${part.scale}`).join(", ");
  const reduced = recipe.reduce_rank === null ? "" : `, reduced to rank ${recipe.reduce_rank}` +
    (recipe.relative_error === undefined ? "" : ` (relative error ${(100 * recipe.relative_error).toFixed(2)} %)`);
  return `blend of ${parts}${reduced}`;
}
