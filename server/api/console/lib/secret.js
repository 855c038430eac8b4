// Shows a secret that the server tells once, with a button that copies it.

import { notice } from "./dialog.js";
import { h } from "./dom.js";

export function showSecret(node, text, label) {
  const copy = h("button", {
    type: "button", onclick: () => navigator.clipboard.writeText(text).then(() => notice("Copied it."), () => notice("Select and copy it.")),
  }, "Copy");
  node.replaceChildren(h("div", { class: "secret" }, h("p", {}, label), h("code", {}, text), copy));
}
