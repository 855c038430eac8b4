// The form of decoding options, generated from the server's list of options.

import { field, h, options } from "../lib/dom.js";

/** Always visible; the other options are collapsed. */
const COMMON = ["temperature", "top_p", "top_k", "max_tokens", "seed", "stop"];
/** Set elsewhere on the page, or not useful here. */
const LEFT_OUT = ["preset", "use_beam_search", "length_penalty"];

/** { node, values() }: `values` throws an Error with a message when an input is invalid. */
export function decodingForm(list) {
  const taken = list.filter((option) => !LEFT_OUT.includes(option.name));
  const controls = new Map(taken.map((option) => [option.name, control(option)]));
  const show = (option) => field(option.name, controls.get(option.name).node, hint(option));
  const common = COMMON.map((name) => taken.find((option) => option.name === name)).filter(Boolean);
  const others = taken.filter((option) => !COMMON.includes(option.name));
  const node = h("div", {},
    h("div", { class: "decoding" }, common.map(show)),
    h("details", {}, h("summary", {}, `${others.length} more options`), h("div", { class: "decoding" }, others.map(show))));

  function values() {
    const set = {};
    for (const [name, { read }] of controls) {
      const value = read();
      if (value !== undefined) set[name] = value;
    }
    return set;
  }

  return { node, values };
}

function hint({ meaning, range, type }) {
  return type === "boolean" || type === "string" ? meaning : `${meaning} · ${range}`; // their values are in the list
}

function control(option) {
  const shown = option.default === null || option.default === "" || Array.isArray(option.default) ? "default" : String(option.default);
  if (option.type === "boolean") return choice(option, ["true", "false"], (text) => text === "true", shown);
  if (option.type === "string") return choice(option, option.range.split(", "), (text) => text, shown);
  if (option.type === "number" || option.type === "integer") {
    const node = h("input", { type: "number", step: option.type === "integer" ? "1" : "any", placeholder: shown, name: option.name });
    return { node, read: () => (node.value === "" ? undefined : Number(node.value)) };
  }
  if (option.name === "stop" || option.name === "bad_words") {
    const node = h("textarea", { rows: 1, placeholder: "one per line", name: option.name });
    return { node, read: () => lines(node.value) };
  }
  const node = h("textarea", { rows: 1, placeholder: "JSON", name: option.name, spellcheck: "false" });
  return { node, read: () => json(option.name, node.value) };
}

function choice(option, values, read, shown) {
  const node = h("select", { name: option.name }, options([["", shown === "default" ? shown : `default (${shown})`], ...values.map((value) => [value, value])], ""));
  return { node, read: () => (node.value === "" ? undefined : read(node.value)) };
}

function lines(text) {
  const found = text.split("\n").filter((line) => line !== "");
  return found.length ? found : undefined;
}

function json(name, text) {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    if (/^\w+$/.test(text.trim())) return text.trim(); // tool_choice: auto
    throw new Error(`${name} is not JSON.`);
  }
}
