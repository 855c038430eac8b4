// Stacked bars of prompt and generated tokens, as SVG.

import { count, h, svg } from "./dom.js";

const HEIGHT = 240;
const LEFT = 48;
const FOOT = 24;
const TOP = 10;

/** `buckets`: [{ at (ms), prompt, generated, requests }], oldest first. */
export function chart(buckets, by) {
  const WIDTH = innerWidth < 720 ? 400 : 960; // a smaller chart on a phone, so that labels stay readable
  const most = niceCeiling(Math.max(...buckets.map((bucket) => bucket.prompt + bucket.generated)));
  const y = (tokens) => TOP + (HEIGHT - FOOT - TOP) * (1 - tokens / most);
  const step = (WIDTH - LEFT) / buckets.length;
  const total = buckets.reduce((sum, bucket) => sum + bucket.prompt + bucket.generated, 0);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 8}`, role: "img", "aria-label": `Tokens per ${by}, ${count(total)} in total` });
  for (const part of [0, 0.5, 1]) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(most * part), y2: y(most * part) }));
    const label = svg("text", { class: "axis", x: LEFT - 8, y: y(most * part) + 4, "text-anchor": "end" });
    label.append(short(most * part));
    picture.append(label);
  }
  buckets.forEach((bucket, at) => {
    const x = LEFT + at * step + step * 0.15;
    const title = svg("title");
    title.append(`${name(bucket.at, by)}: ${count(bucket.prompt)} prompt + ${count(bucket.generated)} generated tokens, ${count(bucket.requests)} requests`);
    const column = svg("g", { class: "column" }, title, svg("rect", { class: "touch", x: LEFT + at * step, y: 0, width: step, height: HEIGHT - FOOT }));
    column.append(bar("prompt", x, step * 0.7, y(bucket.prompt), y(0)), bar("generated", x, step * 0.7, y(bucket.prompt + bucket.generated), y(bucket.prompt)));
    picture.append(column);
    if (at % Math.ceil(buckets.length / (WIDTH / 110)) === 0) {
      const label = svg("text", { class: "axis", x: x + step * 0.35, y: HEIGHT, "text-anchor": "middle" });
      label.append(tick(bucket.at, by));
      picture.append(label);
    }
  });
  return h("figure", {},
    h("figcaption", {}, h("strong", {}, `Tokens per ${by}`), h("span", { class: "legend" }, h("span", { class: "key prompt" }, "prompt"), h("span", { class: "key generated" }, "generated"))),
    picture);
}

function bar(kind, x, width, top, foot) {
  return svg("rect", { class: kind, x, width, y: top, height: Math.max(0, foot - top) });
}

function niceCeiling(value) {
  if (value <= 10) return 10;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((times) => times * power).find((limit) => limit >= value);
}

function short(value) {
  if (value >= 1e6) return `${value / 1e6} M`;
  return value >= 1e3 ? `${value / 1e3} k` : String(value);
}

function name(at, by) {
  const time = new Date(at);
  const date = time.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short" });
  return by === "hour" ? `${date} ${time.toLocaleTimeString("en-GB").slice(0, 5)}` : date;
}

/** Below a column: the hour, and the day where one begins. */
function tick(at, by) {
  const time = new Date(at);
  return by === "hour" && time.getHours() ? time.toLocaleTimeString("en-GB").slice(0, 5) : name(at, "day");
}
