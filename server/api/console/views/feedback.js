// Users' feedback on answers, and its download as training data.

import { ask, text } from "../lib/api.js";
import { notice, sentence } from "../lib/dialog.js";
import { count, field, h, moment, options } from "../lib/dom.js";
import { listing } from "../lib/listing.js";

export const title = "Feedback";

export function mount(root, session) {
  const rating = h("select", {}, options([["", "all"], ["up", "good"], ["down", "bad"]], ""));
  const save = h("button", { type: "button" }, "Download chats for training");
  const sums = h("p", { class: "lead", role: "status" });
  const list = h("div", {});
  let shown = "";
  let said = [];
  const controls = listing({
    what: "ratings", size: 25, changed: draw,
    text: (one) => `${one.tenant} ${one.adapter}@${one.version} ${one.reason} ${one.comment} ${one.request_id}`,
  });
  root.append(h("div", { class: "filters" }, field("Rating", rating), save), sums, controls.bar, list, controls.foot);

  function draw() {
    const page = controls.pick(said);
    list.replaceChildren(said.length ? table(page, session) : h("p", { class: "empty" }, "No feedback yet. Applications send it to POST /v1/feedback."));
  }

  async function refresh() {
    const query = new URLSearchParams({ limit: "200", ...(rating.value ? { rating: rating.value } : {}) });
    const { data } = await ask(`admin/v1/feedback?${query}`);
    const signature = JSON.stringify(data);
    if (signature === shown) return;
    shown = signature;
    const good = data.filter((said) => said.rating === "up").length;
    sums.textContent = data.length ? `${count(good)} good and ${count(data.length - good)} bad among the newest ${count(data.length)}` : "";
    said = data;
    draw();
  }

  rating.addEventListener("change", () => refresh().catch(() => {}));
  save.addEventListener("click", async () => {
    try {
      const query = new URLSearchParams({ format: "jsonl", limit: "100000", rating: rating.value || "up" });
      const lines = await text(`admin/v1/feedback?${query}`);
      if (!lines) {
        notice(session.keeps_feedback_messages ? "No feedback contains a chat." : "This server does not keep chats. Start it with --keep-feedback-messages.");
        return;
      }
      const url = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
      h("a", { href: url, download: "feedback.jsonl" }).click();
      URL.revokeObjectURL(url);
    } catch (error) {
      notice(sentence(error), { bad: true });
    }
  });
  return { refresh, every_s: 5 };
}

function table(data, session) {
  const columns = ["When", ...(session.tenant ? [] : ["Tenant"]), "Model", "Rating", "Said", "Request"];
  return h("table", { class: "stacked" },
    h("thead", {}, h("tr", {}, columns.map((label) => h("th", { scope: "col" }, label)))),
    h("tbody", {}, data.map((said) => h("tr", {},
      h("td", { "data-label": "When" }, moment(said.at)),
      session.tenant ? null : h("td", { "data-label": "Tenant" }, said.tenant || "operators"),
      h("td", { "data-label": "Model" }, said.adapter ? `${said.adapter}@${said.version}` : "base model"),
      h("td", { "data-label": "Rating" }, h("div", {}, h("span", { class: `dot ${said.rating}`, "aria-hidden": "true" }), said.rating === "up" ? "good" : "bad")),
      h("td", { "data-label": "Said", class: "said" }, h("div", {}, [said.reason, said.comment].filter(Boolean).join(": ") || "–", said.messages ? h("span", { class: "hint" }, ` with a chat of ${said.messages} turns`) : null)),
      h("td", { "data-label": "Request" }, h("span", { class: "id" }, said.request_id)),
    ))));
}
