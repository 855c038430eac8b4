// The sign-in page: with a key, and, where a provider is configured, as a person.

import { useKey } from "../lib/api.js";
import { h } from "../lib/dom.js";

export function signIn(root, message, done, byPerson = false) {
  const secret = h("input", {
    id: "key", type: "password", name: "key", autocomplete: "off", spellcheck: "false", required: true,
    "aria-describedby": "key-hint key-error",
  });
  const wrong = h("p", { id: "key-error", class: "error", role: "alert" }, message);
  const button = h("button", { type: "submit", class: "primary" }, byPerson ? "Sign in with the key" : "Sign in");
  const form = h(
    "form",
    { class: "sign-in" },
    h("p", { class: "brand" }, "loragate"),
    h("h1", {}, "Console"),
    byPerson ? [h("a", { href: "sign-in", class: "button" }, "Sign in"), h("p", { class: "or" }, "or with a key")] : null,
    h("label", { htmlFor: "key" }, "Key"),
    secret,
    h("p", { id: "key-hint", class: "hint" }, "An operator key or a tenant admin key. It is stored only in this tab, until you close it."),
    wrong,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    useKey(secret.value.trim());
    await done();
  });
  root.replaceChildren(form);
  document.title = "Sign in · loragate console";
  if (message) secret.setAttribute("aria-invalid", "true");
  secret.focus();
}
