// Forms of one tenant beside its shares and limits: decoding defaults, which a preset can fill in, and records.

import { ask } from "../lib/api.js";
import { notice, sentence } from "../lib/dialog.js";
import { field, h, options } from "../lib/dom.js";

/** A form that shows why it was refused; `done(node, leave)` sends it, and `leave` lets the form be replaced. */
export function form(className, children, action, done) {
  const status = h("p", { class: "error", role: "status" });
  const node = h("form", { class: className }, children, h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, action), status));
  node.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await done(node, () => {
        document.activeElement?.blur?.(); // the form may now be replaced
      });
      status.textContent = "";
    } catch (error) {
      status.textContent = sentence(error);
    }
  });
  return node;
}

/** Options that a tenant's requests have where they set none. */
export function decodingForm(tenant, refresh) {
  const text = h("textarea", { rows: 4, spellcheck: "false" }, written(tenant.sampling_defaults));
  const preset = h("select", {}, options([["", "choose…"]], ""));
  let presets = {};
  ask("v1/presets").then(({ data }) => {
    presets = data;
    preset.append(...options(Object.keys(data)));
  }).catch(() => {});
  preset.addEventListener("change", () => {
    if (preset.value) text.value = written(presets[preset.value]);
  });
  const nodes = [field("Fill in from preset", preset), field("Decoding defaults", text, "JSON; a request's own options win")];
  const made = form("settings", nodes, "Save defaults", async (_node, leave) => {
    const defaults = parsed(text.value);
    await ask(`admin/v1/tenants/${tenant.name}`, { method: "PATCH", body: { sampling_defaults: defaults } });
    notice(`Changed the decoding defaults of ${tenant.name}.`);
    leave();
    await refresh();
  });
  return h("details", { class: "more" }, h("summary", {}, "Decoding defaults"), made);
}

/** Which part of a tenant's requests is kept, and what is replaced in them. */
export function recordsForm(tenant, refresh) {
  const part = h("input", { type: "number", min: "0", max: "1", step: "any", value: tenant.records?.share ?? "" });
  const patterns = h("textarea", { rows: 3, spellcheck: "false" }, (tenant.records?.patterns ?? []).join("\n"));
  const nodes = [field("Share that is recorded", part, "0 to 1; empty: none"), field("Patterns to replace", patterns, "one regular expression a line")];
  const made = form("settings", nodes, "Save records", async (_node, leave) => {
    const path = `admin/v1/tenants/${tenant.name}/records`;
    if (Number(part.value)) {
      await ask(path, { method: "PUT", body: { share: Number(part.value), patterns: patterns.value.split("\n").filter((line) => line) } });
    } else {
      await ask(path, { method: "DELETE" });
    }
    notice(Number(part.value) ? `Requests of ${tenant.name} are recorded.` : `Nothing of ${tenant.name} is recorded any more.`);
    leave();
    await refresh();
  });
  return h("details", { class: "more" }, h("summary", {}, "Records"), made);
}

const written = (defaults) => (Object.keys(defaults).length ? JSON.stringify(defaults, null, 2) : "");

function parsed(text) {
  if (!text.trim()) return {};
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("The defaults are no JSON; write them as {\"temperature\": 0.2}.");
  }
}
