// Search, filter, sort and paging of a list whose rows are in memory: a page never shows more than some rows.

import { count, field, h, options, say } from "./dom.js";

/**
 * A list's controls. `text(row)` is what the search looks at; `sorts` and `filters` are
 * { name: [label, compare] } and [{ label, choices: { value: [label, keep] } }]; `changed` draws the list again.
 * Returns { bar, foot, pick }: `pick(rows)` is the rows of the current page.
 */
export function listing({ what, text, size = 20, sorts = {}, filters = [], changed }) {
  const state = { page: 0 };
  if (innerWidth < 720) size = Math.ceil(size / 2); // the rows of a phone are several lines high
  const search = h("input", { type: "search", placeholder: `Search ${what}`, "aria-label": `Search ${what}`, autocomplete: "off", spellcheck: "false" });
  const sort = h("select", {}, options(Object.entries(sorts).map(([name, [label]]) => [name, label]), Object.keys(sorts)[0]));
  const selects = filters.map(({ choices }) => h("select", {}, options(Object.entries(choices).map(([name, [label]]) => [name, label]), Object.keys(choices)[0])));
  const shown = h("p", { class: "hint", role: "status" });
  const turn = (by) => () => {
    state.page += by;
    changed();
    bar.scrollIntoView({ block: "nearest" });
  };
  const before = h("button", { type: "button", onclick: turn(-1), "aria-label": `Previous page of ${what}` }, "Previous");
  const after = h("button", { type: "button", onclick: turn(1), "aria-label": `Next page of ${what}` }, "Next");
  const bar = h("div", { class: "list-bar", role: "search", "aria-label": `Find ${what}` },
    h("div", { class: "field search" }, search),
    filters.map(({ label }, at) => field(label, selects[at])),
    Object.keys(sorts).length > 1 ? field("Sort by", sort) : null);
  const foot = h("div", { class: "list-foot" }, shown, before, after);
  for (const control of [search, sort, ...selects]) {
    control.addEventListener("input", () => {
      state.page = 0;
      changed();
    });
  }

  function pick(rows) {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const keeps = filters.map(({ choices }, at) => choices[selects[at].value][1]);
    const found = rows.filter((row) => keeps.every((keep) => keep(row)) && words.every((word) => text(row).toLowerCase().includes(word)));
    const compare = sorts[sort.value]?.[1];
    if (compare) found.sort(compare);
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    state.page = Math.min(Math.max(state.page, 0), last);
    const first = state.page * size;
    const page = found.slice(first, first + size);
    say(shown, summary(page.length, first, found.length, rows.length, what));
    before.hidden = after.hidden = last === 0;
    before.disabled = state.page === 0;
    after.disabled = state.page === last;
    bar.hidden = rows.length <= 1 && !search.value;
    foot.hidden = found.length <= size && found.length === rows.length;
    return page;
  }

  return { bar, foot, pick };
}

function summary(shown, first, found, all, what) {
  if (!found) return all ? `None of ${count(all)} ${what} matches.` : "";
  const part = shown === found ? count(found) : `${count(first + 1)}–${count(first + shown)} of ${count(found)}`;
  return found === all ? `${part} ${what}` : `${part} that match, of ${count(all)} ${what}`;
}

export const byText = (text) => (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
export const byMost = (number) => (a, b) => number(b) - number(a);
