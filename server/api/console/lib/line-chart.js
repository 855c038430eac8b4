// Lines over time, as SVG with few elements: values per step, their axis, and some times below.

import { day, h, svg } from "./dom.js";

const HEIGHT = 150;
const LEFT = 48;
const FOOT = 22;
const TOP = 8;
const TICKS = 4;

/**
 * A figure. `series`: [{ name, values }], oldest first, null where there is no value; `begins` in ms, `step_s` seconds;
 * `show(value)` is a value with its unit.
 */
export function lineChart({ title, series, begins, step_s, show }) {
  const WIDTH = innerWidth < 720 ? 330 : 480; // a smaller one on a phone, so that its labels stay readable
  const values = series.flatMap((line) => line.values).filter((value) => value !== null);
  const most = ceiling(Math.max(0, ...values));
  const steps = series[0].values.length;
  const x = (at) => LEFT + ((WIDTH - LEFT - 4) * at) / (steps - 1);
  const y = (value) => TOP + (HEIGHT - FOOT - TOP) * (1 - value / most);
  const summary = series.map((line) => describe(line, show)).join("; ");
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${summary}` });
  for (const part of [0, 0.5, 1]) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(most * part), y2: y(most * part) }), text(LEFT - 8, y(most * part) + 4, "end", show(most * part)));
  }
  for (let tick = 0; tick < TICKS; tick += 1) {
    const at = Math.round(((steps - 1) * (tick + 0.5)) / TICKS);
    picture.append(text(x(at), HEIGHT - 4, "middle", when(begins + at * step_s * 1000, step_s)));
  }
  series.forEach((line, number) => picture.append(svg("path", { class: `line line-${number}`, d: path(line.values, x, y) })));
  return h("figure", { class: "card line-chart" },
    h("figcaption", {}, h("strong", {}, title),
      h("span", { class: "legend" }, series.map((line, number) => h("span", { class: `key line-${number}` }, `${series.length > 1 ? `${line.name} ` : ""}${last(line.values, show)}`)))),
    picture);
}

function describe({ name, values }, show) {
  const known = values.filter((value) => value !== null);
  return known.length ? `${name}: ${show(known.at(-1))} now, at most ${show(Math.max(...known))}` : `${name}: none`;
}

function path(values, x, y) {
  let draw = "M";
  return values.map((value, at) => {
    if (value === null) {
      draw = "M";
      return "";
    }
    const isAlone = draw === "M" && (values[at + 1] ?? null) === null;
    const point = `${draw}${x(at).toFixed(1)} ${y(value).toFixed(1)}${isAlone ? "h1" : ""}`; // a dot where no line is
    draw = "L";
    return point;
  }).join("");
}

function text(x, y, anchor, content) {
  const node = svg("text", { class: "axis", x, y, "text-anchor": anchor });
  node.append(content);
  return node;
}

/** The newest value that there is. */
function last(values, show) {
  const known = values.filter((value) => value !== null);
  return known.length ? show(known.at(-1)) : "–";
}

function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((times) => times * power).find((limit) => limit >= value);
}

function when(ms, step_s) {
  const at = new Date(ms);
  const time = at.toLocaleTimeString("en-GB").slice(0, 5);
  return step_s < 600 || day(at) === "today" ? time : `${day(at)} ${time}`;
}
