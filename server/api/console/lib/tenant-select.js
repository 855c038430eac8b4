// A list of all tenants to choose from, below one entry for "none of them".

import { ask } from "./api.js";
import { h, options } from "./dom.js";

/** `first`: value and text of the entry above the tenants. `choose` waits until the tenants are offered. */
export function tenantSelect(first) {
  const node = h("select", {}, options([first], first[0]));
  const offered = ask("admin/v1/tenants").then(({ data }) => node.append(...options(data.map((row) => row.name))), () => {});
  return {
    node,
    async choose(name) {
      await offered;
      if (![...node.options].some((option) => option.value === name)) node.append(...options([name]));
      node.value = name;
    },
  };
}
