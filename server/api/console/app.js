// The page frame: the session, the open view, and its periodic refresh.

import * as api from "./lib/api.js";
import { notice, sentence } from "./lib/dialog.js";
import { h, say } from "./lib/dom.js";
import { themeSwitch } from "./lib/theme.js";
import { watch } from "./lib/watch.js";
import * as activity from "./views/activity.js";
import * as adapters from "./views/adapters.js";
import * as audit from "./views/audit.js";
import * as budgets from "./views/budgets.js";
import * as feedback from "./views/feedback.js";
import * as overview from "./views/overview.js";
import * as playground from "./views/playground.js";
import * as prices from "./views/prices.js";
import * as servers from "./views/servers.js";
import { signIn } from "./views/sign-in.js";
import * as tenants from "./views/tenants.js";
import * as usage from "./views/usage.js";
import * as webhooks from "./views/webhooks.js";

// Each view: title, forOperators?, forWriters?, mount(root, session, rest of the hash) -> { refresh?, every_s?, leave? }
const VIEWS = { overview, activity, tenants, adapters, playground, usage, prices, budgets, feedback, webhooks, servers, audit };
const main = document.getElementById("main");
const top = document.getElementById("top");
const who = document.getElementById("who");
const state = document.getElementById("state");

let session = null;
let open = null; // { name, view, timer }
let unwatch = () => {};
let mayPeopleSignIn = false;

async function begin() {
  mayPeopleSignIn = await api.findSession().catch(() => false);
  if (!api.isSignedIn()) return showSignIn();
  try {
    session = await api.ask("admin/v1/whoami");
  } catch (error) {
    if (error.status !== 401) showSignIn(sentence(error)); // for a 401, onRefused has shown the page already
    return undefined;
  }
  who.replaceChildren(h("strong", {}, roleName()), session.person ? ` ${session.person}` : ` ${session.key.prefix}…`);
  document.getElementById("tabs").replaceChildren(
    ...Object.keys(VIEWS).filter(mayOpen).map((name) => h("a", { href: `#${name}` }, VIEWS[name].title)),
  );
  document.body.classList.toggle("reads-only", session.read_only);
  top.hidden = false;
  unwatch();
  unwatch = watch(document.getElementById("banner"), setState);
  return show();
}

function roleName() {
  const role = session.read_only ? "reads only" : session.tenant ? "tenant admin" : "operator";
  return session.tenant ? `${session.tenant} · ${role}` : role;
}

function showSignIn(message = "") {
  close();
  unwatch();
  session = null;
  api.forget();
  top.hidden = true;
  who.replaceChildren();
  signIn(main, message, begin, mayPeopleSignIn);
}

function close() {
  if (!open) return;
  clearTimeout(open.timer);
  open.view.leave?.();
  open = null;
}

const mayOpen = (name) => name in VIEWS && (!VIEWS[name].forOperators || !session.tenant) && (!VIEWS[name].forWriters || !session.read_only);

function show() {
  if (!session) return;
  const [asked, rest] = location.hash.slice(1).split("/");
  const name = mayOpen(asked) ? asked : "overview";
  if (open?.name === name && !rest) return;
  close();
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.hash === `#${name}`) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "center" });
    }
    else link.removeAttribute("aria-current");
  }
  document.title = `${VIEWS[name].title} · loragate console`;
  const root = h("div", { class: `view ${name}` });
  main.replaceChildren(h("h1", {}, VIEWS[name].title), root);
  open = { name, view: VIEWS[name].mount(root, session, rest && decodeURIComponent(rest)), timer: 0 };
  tick(open);
}

async function tick(current) {
  clearTimeout(current.timer);
  if (!document.hidden) {
    try {
      await current.view.refresh?.();
      if (open === current) problem(main, "");
    } catch (error) {
      if (open === current && error.status) problem(main, sentence(error)); // the banner says that the server is away
    }
  }
  if (open === current && current.view.every_s) current.timer = setTimeout(() => tick(current), current.view.every_s * 1000);
}

/** A view whose data is refused says so, above what it shows. */
function problem(root, text) {
  let node = root.querySelector(":scope > .problem");
  if (!node && text) root.prepend(node = h("p", { class: "problem error", role: "status" }));
  if (node) say(node, text);
}

function setState(text, bad = false) {
  say(state, text);
  state.classList.toggle("bad", bad);
}

document.getElementById("sign-out").addEventListener("click", async () => {
  await api.endSession().catch((error) => notice(sentence(error), { bad: true }));
  showSignIn();
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is reserved for the view's name
  main.focus();
});
addEventListener("hashchange", () => {
  show();
  main.querySelector("h1")?.scrollIntoView({ block: "nearest" });
});
document.addEventListener("visibilitychange", () => open && !document.hidden && tick(open));
themeSwitch(document.getElementById("theme"));
api.onRefused((error) => {
  if (api.isSignedIn()) showSignIn(!session || session.person ? error.message : "The key is no longer valid. Sign in again."); // otherwise the message is shown already
});
begin();
