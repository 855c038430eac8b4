// Webhooks for operators: who is told of what, a test message, and how sending went.

import { ask } from "../lib/api.js";
import { confirm, notice, sentence } from "../lib/dialog.js";
import { field, h, moment } from "../lib/dom.js";
import { listing } from "../lib/listing.js";
import { showSecret } from "../lib/secret.js";
import { tenantSelect } from "../lib/tenant-select.js";

export const title = "Webhooks";
export const forOperators = true;

const EVENTS = ["budget.threshold_reached", "adapter.rolled_back", "engine.failed", "engine.restored"];
const ofEngine = (event) => event.startsWith("engine.");
/** The newest messages of a webhook that the page shows. */
const MESSAGES = 10;

export function mount(root) {
  const secret = h("div", { role: "status" });
  const list = h("div", {});
  const state = { hooks: [], open: null, messages: [] };
  const controls = listing({ what: "webhooks", size: 10, changed: draw, text: (hook) => `${hook.url} ${hook.tenant ?? "all"} ${hook.events} ${hook.id}` });
  root.append(
    h("p", { class: "lead" }, "Signed messages to other systems, kept and sent again until they are taken."),
    addForm((made) => showSecret(secret, made.secret, "The secret with which its messages are signed; it is shown this once:"), refresh),
    secret, controls.bar, list, controls.foot);
  let shown = "";

  async function refresh() {
    state.hooks = (await ask("admin/v1/webhooks")).data;
    if (!state.hooks.some((hook) => hook.id === state.open)) state.open = null;
    state.messages = state.open ? (await ask(`admin/v1/webhooks/${state.open}/messages?limit=${MESSAGES}`)).data : [];
    const signature = JSON.stringify(state);
    if (signature === shown) return;
    shown = signature;
    draw();
  }

  function draw() {
    const page = controls.pick(state.hooks);
    const focused = document.activeElement?.dataset?.focus;
    list.replaceChildren(...(state.hooks.length ? page.map(row) : [h("p", { class: "empty" }, "Nobody is told yet.")]));
    if (focused) list.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  function row(hook) {
    const isOpen = state.open === hook.id;
    const act = (work) => async () => {
      try {
        await work();
        await refresh();
      } catch (error) {
        notice(sentence(error), { bad: true });
      }
    };
    const toggle = act(async () => {
      state.open = isOpen ? null : hook.id;
    });
    const test = act(async () => {
      await ask(`admin/v1/webhooks/${hook.id}/test`, { method: "POST" });
      state.open = hook.id;
      notice("A test message is on its way; its line says how sending went.");
    });
    const remove = act(async () => {
      const question = { title: "Remove the webhook?", text: `${hook.url} is told nothing more, and messages that wait for it are dropped.`, action: "Remove", danger: true };
      if (await confirm(question)) await ask(`admin/v1/webhooks/${hook.id}`, { method: "DELETE" });
    });
    const button = (name, onclick, attributes = {}) => h("button", { type: "button", "data-focus": `${name}-${hook.id}`, "aria-label": `${name} ${hook.url}`, onclick, ...attributes }, name);
    return h("article", { class: isOpen ? "card managed" : "managed", "aria-label": hook.url },
      h("div", { class: "section-head" },
        h("div", { class: "hook" }, h("h2", {}, hook.url), h("p", { class: "hint" }, `${hook.tenant ?? "all tenants"} · ${hook.events.join(", ")} · `, h("span", { class: "id" }, hook.id))),
        h("div", { class: "actions" }, button("Test", test), button("Messages", toggle, { "aria-expanded": String(isOpen) }), button("Remove", remove))),
      isOpen ? messageTable(state.messages) : null);
  }

  return { refresh, every_s: 2 };
}

function messageTable(messages) {
  if (!messages.length) return h("p", { class: "empty" }, "No message yet.");
  const cell = (label, ...content) => h("td", { "data-label": label, class: label === "Result" ? "said" : null }, content);
  return h("table", { class: "stacked" },
    h("caption", {}, "Newest messages"),
    h("thead", {}, h("tr", {}, ["Event", "Written", "Attempts", "Result"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, messages.map((message) => h("tr", {},
      cell("Event", message.event), cell("Written", moment(message.created_at)), cell("Attempts", String(message.attempts)), cell("Result", h("div", {}, result(message)))))));
}

function result(message) {
  if (message.sent_at) return [h("span", { class: "dot up" }), "taken ", moment(message.sent_at)];
  if (message.next_attempt_at === null) return [h("span", { class: "dot down" }), `given up: ${message.last_error}`];
  if (message.last_error) return [h("span", { class: "dot down" }), `${message.last_error}; again `, moment(message.next_attempt_at)];
  return [h("span", { class: "dot" }), "waits to be sent"];
}

function addForm(made, refresh) {
  const url = h("input", { type: "url", required: true, autocomplete: "off", spellcheck: "false", placeholder: "https://hooks.example.com/loragate" });
  const { node: tenant } = tenantSelect(["", "all tenants"]);
  const boxes = EVENTS.map((event) => [event, h("input", { type: "checkbox", id: `event-${event}`, checked: true })]);
  const status = h("p", { class: "error", role: "status" });
  const form = h("form", { class: "settings" },
    field("URL of the receiver", url), field("Only what concerns", tenant),
    h("fieldset", { class: "events" }, h("legend", {}, "Tell"), boxes.map(([event, box]) => h("div", { class: "check" }, box, h("label", { htmlFor: box.id }, event)))),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Add the webhook"), status));
  const narrow = () => {
    for (const [event, box] of boxes) box.disabled = Boolean(tenant.value) && ofEngine(event);
  };
  tenant.addEventListener("input", narrow);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const events = boxes.filter(([, box]) => box.checked && !box.disabled).map(([name]) => name);
    try {
      made(await ask("admin/v1/webhooks", { method: "POST", body: { url: url.value, events, tenant: tenant.value || null } }));
      status.textContent = "";
      form.reset();
      narrow();
      await refresh();
    } catch (error) {
      status.textContent = sentence(error);
    }
  });
  return h("details", { class: "card" }, h("summary", {}, "Add a webhook"), form);
}
