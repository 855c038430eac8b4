// A slider that splits traffic between two versions.

import { field, h, options } from "../lib/dom.js";
import { change, usable } from "./traffic.js";

export function splitForm(adapter, serving, refresh) {
  const versions = usable(adapter).map((version) => version.number).sort((a, b) => a - b);
  const [first, second] = preset(versions, serving);
  const choices = versions.map((number) => [number, `version ${number}`]);
  const from = h("select", {}, options(choices, first));
  const to = h("select", {}, options(choices, second));
  const part = Math.round(100 * ((serving.get(second) ?? 0) / ((serving.get(first) ?? 0) + (serving.get(second) ?? 0) || 1)));
  const slider = h("input", { type: "range", min: "0", max: "100", step: "1", value: String(part), "data-focus": "slider" });
  const label = h("label", { htmlFor: `slide-${adapter.model}` });
  const summary = h("output", {});
  const apply = h("button", { type: "submit", "data-focus": "split" }, "Apply split");

  function update() {
    const share = Number(slider.value);
    summary.textContent = `v${from.value} ${100 - share} % · v${to.value} ${share} %`;
    label.textContent = `Share of version ${to.value}`;
    slider.setAttribute("aria-valuetext", summary.textContent);
    apply.disabled = from.value === to.value;
  }

  const form = h("form", { class: "split", "aria-label": `Split the traffic of ${adapter.model}` },
    field("From", from), field("To", to),
    h("div", { class: "field slide" }, label, slider, summary),
    apply);
  slider.id = `slide-${adapter.model}`;
  for (const control of [slider, from, to]) control.addEventListener("input", update);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const share = Number(slider.value);
    const weights = Object.fromEntries([[from.value, 100 - share], [to.value, share]].filter(([, weight]) => weight > 0));
    change(adapter, "split", { weights }, {
      title: `Split the traffic of ${adapter.model}?`,
      text: `${summary.textContent}. Both versions are loaded and probed first; requests with the same user or x-session-id stay on one version.`,
      action: "Split", done: `${adapter.model}: ${summary.textContent}`,
    }, refresh);
  });
  update();
  return form;
}

/** The version with the most traffic, and the other version of the split or the newest one. */
function preset(versions, serving) {
  const byShare = [...serving].sort((a, b) => b[1] - a[1]).map(([number]) => number).filter((number) => versions.includes(number));
  const first = byShare[0] ?? versions[0];
  const second = byShare[1] ?? versions.findLast((number) => number !== first);
  return [first, second];
}
