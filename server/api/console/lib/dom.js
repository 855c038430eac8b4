// Creates elements without HTML strings: all data from the server reaches the page as text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value); // the content security policy forbids style attributes
    else if (name in node && (typeof value !== "string" || /[A-Z]/.test(name))) node[name] = value; // htmlFor, dateTime
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element: `h("p", {class: "note"}, "text", other)`. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set an element's text only when it differs, so that screen readers read nothing twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

let nextId = 0;

/** A control with its label and an optional hint. */
export function field(label, control, hint = "") {
  control.id ||= `f${++nextId}`;
  const about = hint ? h("span", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (about) control.setAttribute("aria-describedby", about.id);
  return h("div", { class: "field" }, h("label", { htmlFor: control.id }, label), control, about);
}

export function options(values, chosen) {
  return values.map((value) => {
    const [key, text] = Array.isArray(value) ? value : [value, value];
    return h("option", { value: String(key), selected: key === chosen }, text);
  });
}

const whole = new Intl.NumberFormat("en");

export function count(number) {
  return whole.format(Math.round(number));
}

export function share(part) {
  return `${Math.round(part * 1000) / 10} %`;
}

export function bytes(size) {
  if (size === null || size === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  for (; size >= 1024 && at < units.length - 1; at += 1) size /= 1024;
  return `${at && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[at]}`;
}

const DAY_MS = 86_400_000;

/** A day as people say it: today, yesterday, or its weekday and date; with the year where it is another. */
export function day(at) {
  const midnight = (time) => new Date(time).setHours(0, 0, 0, 0);
  const ago = Math.round((midnight(Date.now()) - midnight(at)) / DAY_MS);
  if (ago === 0) return "today";
  if (ago === 1) return "yesterday";
  const year = at.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return at.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short", ...year });
}

/** A time with its day, in the reader's time zone; the title has the full time. */
export function moment(iso) {
  const at = new Date(iso);
  const text = `${day(at)} ${at.toLocaleTimeString("en-GB").slice(0, day(at) === "today" ? 8 : 5)}`;
  return h("time", { dateTime: at.toISOString(), title: at.toISOString() }, text);
}
