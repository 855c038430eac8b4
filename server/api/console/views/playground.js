// Sends one prompt to several adapters or versions and shows the answers side by side.

import { ask } from "../lib/api.js";
import { decodingForm } from "./decoding.js";
import { sentence } from "../lib/dialog.js";
import { field, h, options } from "../lib/dom.js";
import { answerPane } from "./answer.js";

export const title = "Playground";
export const forWriters = true;
const MOST = 6;
/** Models that are offered at once; a search finds the others. */
const OFFERED = 24;

export function mount(root, session) {
  const system = h("textarea", { rows: 1, name: "system", placeholder: "none" });
  const prompt = h("textarea", { rows: 4, name: "prompt", required: true });
  const chips = h("div", { class: "chips" });
  const search = h("input", { type: "search", placeholder: "Search models", "aria-label": "Search models", autocomplete: "off", spellcheck: "false", hidden: true });
  const models = h("fieldset", { class: "models" }, h("legend", {}, "Answer with"), search, chips);
  const preset = h("select", { name: "preset" });
  const decoding = h("div", {});
  const summary = h("summary", {}, "Decoding");
  const showPreset = () => { summary.textContent = preset.value ? `Decoding: preset ${preset.value}` : "Decoding"; };
  preset.addEventListener("change", showPreset);
  const run = h("button", { type: "submit", class: "primary" }, "Run");
  const stop = h("button", { type: "button", disabled: true }, "Stop");
  const status = h("p", { class: "hint", role: "status" });
  const panes = h("div", { class: "panes" });
  const form = h("form", { class: "card ask" },
    field("Prompt", prompt), field("System message", system), models,
    h("details", {}, summary, field("Preset", preset), decoding),
    h("div", { class: "actions" }, run, stop, status));
  root.append(h("p", { class: "lead" }, usageNote(session)), form, panes);
  let read = () => ({});
  let running = null;

  const ready = load();
  async function load() {
    const [adapters, presets, list] = await Promise.all([ask("admin/v1/adapters"), ask("v1/presets"), ask("admin/v1/options")]);
    const names = modelNames(adapters.data, session.base_model);
    search.hidden = names.length <= OFFERED;
    const offer = () => offerModels(chips, names, search.value);
    search.addEventListener("input", offer);
    offer();
    preset.replaceChildren(...options([["", "none"], ...Object.keys(presets.data).map((name) => [name, name])], session.playground_preset));
    showPreset();
    const made = decodingForm(list.data);
    read = made.values;
    decoding.replaceChildren(made.node);
  }

  /** Waits for the models and options, so that who is faster than their loading is answered too. */
  async function loaded() {
    status.textContent = "";
    run.disabled = true;
    const error = await ready.then(() => null, (failed) => failed);
    run.disabled = false;
    if (error) status.textContent = sentence(error);
    return !error;
  }

  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (run.disabled || !(await loaded())) return; // Ctrl+Enter submits beside a disabled button
    const chosen = [...models.querySelectorAll("input:checked")].map((box) => box.value);
    if (!chosen.length || chosen.length > MOST) {
      status.textContent = chosen.length ? `Choose at most ${MOST} models.` : "Choose at least one model.";
      return;
    }
    let body;
    try {
      body = { ...read(), messages: messages(system.value, prompt.value), stream: true, stream_options: { include_usage: true } };
    } catch (error) {
      status.textContent = error.message;
      return;
    }
    if (preset.value) body.preset = preset.value;
    running = new AbortController();
    run.disabled = true;
    stop.disabled = false;
    status.textContent = `Asking ${chosen.length} ${chosen.length === 1 ? "model" : "models"}…`;
    const asked = chosen.map((model) => answerPane(model, session));
    panes.replaceChildren(...asked.map((pane) => pane.node));
    const ends = await Promise.all(asked.map((pane) => pane.run(body, running.signal)));
    status.textContent = ends.join(" · ");
    run.disabled = false;
    stop.disabled = true;
  });

  return {
    refresh: () => ready.catch((error) => { status.textContent = sentence(error); }),
    leave: () => running?.abort(),
  };
}

function usageNote(session) {
  return session.tenant
    ? `Requests from this page count against ${session.tenant}’s limits and budget.`
    : "Requests from this page belong to the operator: they count for no tenant and use no tenant’s budget.";
}

function messages(system, prompt) {
  const asked = [{ role: "user", content: prompt }];
  return system.trim() ? [{ role: "system", content: system }, ...asked] : asked;
}

function modelNames(adapters, base) {
  const names = adapters.filter((adapter) => adapter.alias.targets.length).flatMap((adapter) => {
    const versions = adapter.versions.filter((version) => ["ready", "resident"].includes(version.state));
    const pinned = versions.length > 1 ? versions.map((version) => `${adapter.model}@${version.number}`) : [];
    return [adapter.model, ...pinned];
  });
  return [...names, base];
}

/** Chips of the chosen models, and of the first ones that match. */
function offerModels(chips, names, wanted) {
  const boxes = [...chips.querySelectorAll("input")];
  const chosen = new Set(boxes.length ? boxes.filter((box) => box.checked).map((box) => box.value) : names.slice(0, 1));
  const matches = names.filter((name) => !chosen.has(name) && name.includes(wanted.trim().toLowerCase()));
  const shown = [...names.filter((name) => chosen.has(name)), ...matches.slice(0, OFFERED)];
  const rest = matches.length - OFFERED;
  chips.replaceChildren(...shown.map((name, at) => {
    const box = h("input", { type: "checkbox", value: name, id: `model-${at}`, checked: chosen.has(name) });
    return h("span", { class: "chip" }, box, h("label", { htmlFor: box.id }, name));
  }), rest > 0 ? h("span", { class: "hint" }, `and ${rest} more; search for them`) : "");
}
