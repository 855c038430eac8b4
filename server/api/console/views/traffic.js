// The traffic of an adapter: its versions' shares, the versions that can serve, and changes.

import { ask } from "../lib/api.js";
import { confirm, notice, sentence } from "../lib/dialog.js";

/** Weight per version, as shares of one. */
export function shares(alias) {
  const total = alias.targets.reduce((sum, target) => sum + target.weight, 0);
  return new Map(alias.targets.map((target) => [target.version, target.weight / total]));
}

/** Versions that can serve traffic. */
export const usable = (adapter) => adapter.versions.filter((version) => ["ready", "resident"].includes(version.state));

/** Ask for confirmation, change the traffic of an adapter, and show the result. */
export async function change(adapter, path, body, question, refresh) {
  if (!(await confirm(question))) return false;
  try {
    await ask(`admin/v1/adapters/${adapter.tenant}/${adapter.name}/${path}`, {
      method: "POST",
      body: { ...body, expected_generation: adapter.alias.generation },
    });
    notice(question.done);
  } catch (error) {
    notice(sentence(error), { bad: true });
    return false;
  } finally {
    document.activeElement?.blur?.(); // the split form may now be replaced
    await refresh().catch(() => {});
  }
  return true;
}

/** Pin, unpin or remove something, after a question if there is one, and show the result. */
export async function act(path, method, { question = null, done }, refresh) {
  if (question && !(await confirm(question))) return;
  try {
    await ask(`admin/v1/adapters/${path}`, { method });
    notice(done);
  } catch (error) {
    notice(sentence(error), { bad: true });
  }
  await refresh().catch(() => {});
}
