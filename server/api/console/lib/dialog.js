// Confirmation dialogs before traffic changes, and short notices after them.

import { h } from "./dom.js";

/** Ask for confirmation; resolves to true for yes. Escape means no. */
export function confirm({ title, text, action, danger = false }) {
  return new Promise((resolve) => {
    const yes = h("button", { type: "button", class: danger ? "danger" : "primary", onclick: () => dialog.close("yes") }, action);
    const no = h("button", { type: "button", onclick: () => dialog.close("no"), autofocus: true }, "Cancel");
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title", "aria-describedby": "dialog-text" },
      h("h2", { id: "dialog-title" }, title),
      h("p", { id: "dialog-text" }, text),
      h("div", { class: "actions" }, no, yes),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

let fading = 0;

/** Show a sentence at the bottom of the page for some seconds; screen readers read it out. */
export function notice(text, { bad = false } = {}) {
  const node = document.getElementById("notice");
  clearTimeout(fading);
  node.textContent = text;
  node.classList.toggle("bad", bad);
  node.classList.add("shown");
  fading = setTimeout(() => node.classList.remove("shown"), bad ? 12000 : 5000);
}

/** The text to show for an error. */
export function sentence(error) {
  return error.requestId ? `${error.message} (request ${error.requestId})` : error.message;
}
