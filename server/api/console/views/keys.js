// The keys of one tenant: make, rotate and revoke; a secret is shown once.

import { ask } from "../lib/api.js";
import { confirm, notice, sentence } from "../lib/dialog.js";
import { field, h, moment, options } from "../lib/dom.js";
import { listing } from "../lib/listing.js";
import { showSecret } from "../lib/secret.js";

const ROLES = [["inference", "calls models"], ["tenant_admin", "tenant admin"]];
const DAY_MS = 86_400_000;
/** A rotated key goes on working for this long, so that programs can be changed one after the other. */
const OVERLAP_S = 3600;

const isOver = (key) => [key.expires_at, key.revoked_at].some((end) => end !== null && Date.parse(end) <= Date.now());

export function keyList(tenant) {
  const secret = h("div", { role: "status" });
  const list = h("div", {});
  let keys = [];
  const controls = listing({
    what: "keys", size: 10, changed: draw, text: (key) => `${key.note} ${key.prefix} ${key.role} ${key.id} ${key.models ?? ""}`,
    filters: [{ label: "Show", choices: { valid: ["valid", (key) => !isOver(key)], all: ["all", () => true] } }],
  });

  async function refresh() {
    keys = (await ask(`admin/v1/keys?${new URLSearchParams({ tenant })}`)).data.reverse();
    draw();
  }

  function draw() {
    const page = controls.pick(keys);
    list.replaceChildren(keys.length ? table(page, act) : h("p", { class: "empty" }, "No keys yet."));
  }

  async function act(path, init, question) {
    if (question && !(await confirm(question))) return;
    try {
      const answer = await ask(path, init);
      if (answer.secret) showSecret(secret, answer.secret, "The new key; it is shown this once:");
      await refresh();
    } catch (error) {
      notice(sentence(error), { bad: true });
    }
  }

  const show = (error) => notice(sentence(error), { bad: true });
  refresh().catch(show);
  return h("section", { class: "keys", "aria-label": `Keys of ${tenant}` }, h("h3", {}, "Keys"), newKey(tenant, act), secret, controls.bar, list, controls.foot);
}

function newKey(tenant, act) {
  const role = h("select", {}, options(ROLES, "inference"));
  const note = h("input", { autocomplete: "off", placeholder: "what it is for" });
  const days = h("input", { type: "number", min: "1", placeholder: "never" });
  const models = h("input", { autocomplete: "off", spellcheck: "false", placeholder: "all" });
  const form = h("form", { class: "settings" },
    field("Role", role), field("Note", note), field("Expires in days", days), field("Models", models, "with commas"),
    h("div", { class: "actions" }, h("button", { type: "submit" }, "Make a key")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const named = models.value.split(",").map((model) => model.trim()).filter(Boolean);
    const expires_at = days.value ? new Date(Date.now() + Number(days.value) * DAY_MS).toISOString() : null;
    act("admin/v1/keys", { method: "POST", body: { tenant, role: role.value, note: note.value, expires_at, models: named.length ? named : null } });
  });
  return form;
}

function table(keys, act) {
  const rotation = { title: "Rotate the key?", text: "A new key with the same rights is made. The old one works for another hour.", action: "Rotate" };
  const revocation = { title: "Revoke the key?", text: "Programs that use it are refused within half a second.", action: "Revoke", danger: true };
  return h("table", { class: "stacked" },
    h("thead", {}, h("tr", {}, ["Key", "For", "Role", "Models", "Ends", ""].map((text) => (text ? h("th", { scope: "col" }, text) : h("td", {}))))),
    h("tbody", {}, keys.map((key) => h("tr", {},
      h("td", { "data-label": "Key" }, h("span", { class: "id", title: key.id }, `${key.prefix}…`)),
      h("td", { "data-label": "For" }, key.note || "–"),
      h("td", { "data-label": "Role" }, key.role === "tenant_admin" ? "tenant admin" : key.role),
      h("td", { "data-label": "Models", class: "said" }, key.models?.join(", ") ?? "all"),
      h("td", { "data-label": "Ends" }, key.revoked_at || key.expires_at ? moment(key.revoked_at ?? key.expires_at) : "never"),
      h("td", { class: "act" }, isOver(key) ? null : h("div", { class: "actions" },
        h("button", { type: "button", "aria-label": `Rotate ${key.note || key.prefix}`, onclick: () => act(`admin/v1/keys/${key.id}/rotate`, { method: "POST", body: { overlap_s: OVERLAP_S } }, rotation) }, "Rotate"),
        h("button", { type: "button", "aria-label": `Revoke ${key.note || key.prefix}`, onclick: () => act(`admin/v1/keys/${key.id}`, { method: "DELETE" }, revocation) }, "Revoke")))))));
}
