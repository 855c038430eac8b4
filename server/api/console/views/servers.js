// The servers behind a front, for operators: what each holds, how busy it is, and a drain.

import { ask } from "../lib/api.js";
import { confirm, notice, sentence } from "../lib/dialog.js";
import { count, h, share } from "../lib/dom.js";
import { byMost, byText, listing } from "../lib/listing.js";

export const title = "Servers";
export const forOperators = true;

const DOTS = { ready: "up", unreachable: "down", stopped: "down" };

export function mount(root) {
  const list = h("div", {});
  let servers = [];
  const controls = listing({
    what: "servers", size: 20, changed: draw, text: (server) => `${server.id} ${server.state} ${server.version} ${(server.held ?? []).join(" ")}`,
    sorts: { busy: ["requests now", byMost((server) => server.in_flight ?? 0)], id: ["name", byText((server) => server.id)] },
  });
  root.append(
    h("p", { class: "lead" }, "The servers that answer at this address. A request goes to one that has its adapter in memory and a GPU slot for it."),
    controls.bar, list, controls.foot);
  let shown = "";

  async function refresh() {
    servers = (await ask("admin/v1/cluster")).data;
    const signature = JSON.stringify(servers);
    if (signature === shown) return;
    shown = signature;
    draw();
  }

  function draw() {
    const page = controls.pick(servers);
    const focused = document.activeElement?.dataset?.focus;
    list.replaceChildren(table(page.map(row)));
    if (focused) list.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  async function drain(server) {
    const question = { title: `Drain ${server.id}?`, text: "It takes no new request, finishes what it has, and ends. Another one is started in its place.", action: "Drain", danger: true };
    if (!(await confirm(question))) return;
    try {
      const { in_flight } = await ask(`admin/v1/cluster/${encodeURIComponent(server.id)}/drain`, { method: "POST" });
      notice(`${server.id} finishes ${count(in_flight)} requests and ends.`);
      await refresh();
    } catch (error) {
      notice(sentence(error), { bad: true });
    }
  }

  function row(server) {
    const cell = (label, ...content) => h("td", { "data-label": label }, content);
    const name = cell("Server", h("span", { class: "id" }, server.id));
    const state = cell("State", h("span", { class: `dot ${DOTS[server.state] ?? ""}` }), server.state);
    if (server.held === null) return h("tr", {}, name, state, ["Requests", "KV cache", "Adapters", "Version", ""].map((label) => cell(label)));
    // Without a front the only server is the one that is asked, and nothing would start another.
    const isBehindFront = server.id !== server.server;
    const button = h("button", { type: "button", "data-focus": `drain-${server.id}`, "aria-label": `Drain ${server.id}`, onclick: () => drain(server), disabled: server.state === "draining" }, "Drain");
    return h("tr", {},
      name, state,
      cell("Requests", `${count(server.in_flight)} · ${count(server.waiting)} waiting`),
      cell("KV cache", share(server.kv_use)),
      cell("Adapters", adapters(server)),
      cell("Version", server.version),
      h("td", { class: "act" }, isBehindFront ? h("div", { class: "actions" }, button) : null));
  }

  return { refresh, every_s: 2 };
}

function table(rows) {
  const heads = ["Server", "State", "Requests", "KV cache", "Adapters", "Version"];
  return h("table", { class: "stacked" },
    h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)), h("td", {}))),
    h("tbody", {}, rows));
}

function adapters(server) {
  const slots = `${count(server.computing.length)} of ${count(server.slots)} slots in use`;
  if (!server.held.length) return `none in memory · ${slots}`;
  return h("details", {}, h("summary", {}, `${count(server.held.length)} in memory · ${slots}`), h("p", { class: "hint" }, server.held.join(", ")));
}
