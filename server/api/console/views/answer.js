// One model's streamed answer, its timing, and the rating buttons.

import { ask, stream } from "../lib/api.js";
import { sentence } from "../lib/dialog.js";
import { h } from "../lib/dom.js";

export function answerPane(model, session) {
  const text = h("div", { class: "answer", "aria-busy": "true", tabIndex: 0, role: "region", "aria-label": `Answer of ${model}` });
  const figures = h("p", { class: "hint figures-line" }, "waiting…");
  const rating = h("div", { class: "rating" });
  const node = h("article", { class: "card pane", "data-model": model }, h("h2", {}, model), text, figures, rating);

  async function run(body, signal) {
    const seen = new Reading(text);
    const began = performance.now();
    let requestId = "";
    try {
      for await (const event of stream("v1/chat/completions", { ...body, model }, { signal, onStart: (id) => { requestId = id; } })) {
        seen.take(event);
        figures.textContent = seen.figures(began);
      }
      figures.append(h("br"), h("span", { class: "id" }, requestId));
      rating.append(...ratingButtons(requestId, session, () => [...body.messages, { role: "assistant", content: seen.plain }]));
      return `${model}: done`;
    } catch (error) {
      const stopped = error.name === "AbortError";
      figures.textContent = stopped ? `${seen.figures(began)} · stopped` : "";
      if (!stopped) node.append(h("p", { class: "error", role: "alert" }, sentence(error)));
      return `${model}: ${stopped ? "stopped" : "failed"}`;
    } finally {
      text.setAttribute("aria-busy", "false");
    }
  }

  return { node, run };
}

/** The received part of a stream. */
class Reading {
  constructor(root) {
    this.root = root;
    this.parts = new Map(); // choice -> { node, calls }
    this.plain = "";
    this.firstAt = 0;
    this.lastAt = 0;
    this.usage = null;
    this.ends = [];
  }

  take(event) {
    if (event.usage) this.usage = event.usage;
    for (const choice of event.choices ?? []) {
      const { content, reasoning, reasoning_content: thought, tool_calls: calls } = choice.delta ?? {};
      if (content || reasoning || thought || calls) {
        this.lastAt = performance.now();
        this.firstAt ||= this.lastAt;
      }
      const part = this.part(choice.index);
      if (reasoning ?? thought) part.append(h("span", { class: "thought" }, reasoning ?? thought));
      if (content) {
        part.append(content);
        if (choice.index === 0) this.plain += content;
      }
      for (const call of calls ?? []) part.append(h("span", { class: "code" }, (call.function?.name ? `${call.function.name} ` : "") + (call.function?.arguments ?? "")));
      if (choice.finish_reason) this.ends.push(choice.finish_reason);
    }
  }

  part(index) {
    if (!this.parts.has(index)) {
      const node = h("div", { class: "choice" });
      this.parts.set(index, node);
      this.root.append(node);
    }
    return this.parts.get(index);
  }

  figures(began) {
    const shown = [];
    if (this.firstAt) shown.push(`first token ${Math.round(this.firstAt - began)} ms`);
    if (this.usage) {
      const tokens = this.usage.completion_tokens;
      shown.push(`${this.usage.prompt_tokens} + ${tokens} tokens`);
      if (tokens > 1 && this.lastAt > this.firstAt) shown.push(`${Math.round((1000 * (tokens - 1)) / (this.lastAt - this.firstAt))} tokens/s`);
    }
    if (this.ends.length) shown.push(`ended by ${[...new Set(this.ends)].join(", ")}`);
    return shown.join(" · ");
  }
}

function ratingButtons(requestId, session, chat) {
  const status = h("span", { class: "hint", role: "status" });
  const keep = h("input", { type: "checkbox", id: `keep-${requestId}` });
  const kept = session.keeps_feedback_messages ? h("span", { class: "check" }, keep, h("label", { htmlFor: keep.id }, "keep this chat for training")) : null;
  const button = (rating, label) => h("button", {
    type: "button", class: "quiet", "aria-pressed": "false",
    onclick: async (event) => {
      const body = { request_id: requestId, rating };
      if (keep.checked) body.messages = chat();
      try {
        await ask("v1/feedback", { method: "POST", body });
        for (const other of event.target.parentNode.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === event.target));
        status.textContent = "Thank you.";
      } catch (error) {
        status.textContent = sentence(error);
      }
    },
  }, label);
  return [button("up", "Good answer"), button("down", "Bad answer"), kept, status].filter(Boolean);
}
