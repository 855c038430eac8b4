// Watches the server and its engine, and says on top of the page when what it shows is no longer true.

import { ask } from "./api.js";
import { day, say } from "./dom.js";

const EVERY_MS = 500;
/** A server that does not answer in this time counts as away, so that the page says so within 3 seconds. */
const ANSWER_S = 1.5;
/** An engine that works makes a step, or answers a ping, about each second. With `EVERY_MS` less than 3 seconds. */
const SILENT_S = 2;

let seen = null; // when the server answered last

/** Watch while `isOpen()`; `show(state, isBad)` gets the state in a word. Returns a function that ends it. */
export function watch(banner, show) {
  let timer = 0;
  let ended = false;
  async function look() {
    if (!document.hidden) {
      try {
        const state = await ask("admin/v1/state", { timeout_s: ANSWER_S });
        if (ended) return;
        seen = new Date();
        tell(banner, trouble(state));
        show(state.state, state.state !== "ready");
      } catch (error) {
        if (ended) return;
        const isAway = !error.status; // otherwise it answered, with a refusal
        tell(banner, isAway ? away() : error.message);
        show(isAway ? "away" : "refused", true);
      }
    }
    if (!ended) timer = setTimeout(look, EVERY_MS);
  }
  look();
  return () => {
    ended = true;
    clearTimeout(timer);
    tell(banner, "");
  };
}

function away() {
  const since = seen ? ` What is shown is from ${day(seen)} ${seen.toLocaleTimeString("en-GB")}.` : "";
  return `The server cannot be reached; trying again.${since}`;
}

function trouble({ state, stalled, silent_s, warning }) {
  if (stalled) return "The engine has stalled and is being restarted. Requests are refused until it serves again.";
  if (state !== "ready") return `The engine is ${state}. Requests are refused until it serves.`;
  if (silent_s > SILENT_S) return `The engine has not finished a step for ${Math.round(silent_s)} s.`;
  return warning ?? "";
}

function tell(banner, text) {
  banner.hidden = !text;
  say(banner, text);
}
