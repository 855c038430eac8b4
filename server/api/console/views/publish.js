// Publishes a version from this machine: a tar archive, or the trainer's files, which are packed here.

import { ask, upload } from "../lib/api.js";
import { notice, sentence } from "../lib/dialog.js";
import { bytes, field, h, options } from "../lib/dom.js";
import { tar } from "../lib/tar.js";

const ARCHIVES = /\.(tar|tar\.gz|tgz)$/i;

export function publishForm(session, refresh) {
  const tenant = session.tenant ? h("input", { value: session.tenant, disabled: true }) : h("select", { required: true });
  const names = h("datalist", { id: "adapter-names" });
  const name = h("input", { name: "adapter", required: true, pattern: "[a-z0-9][a-z0-9\\-]*", autocomplete: "off", spellcheck: "false", placeholder: "support" });
  name.setAttribute("list", "adapter-names");
  const files = h("input", { type: "file", multiple: true, required: true });
  const promote = h("input", { type: "checkbox", id: "publish-promote" });
  const bar = h("progress", { max: 1, hidden: true, "aria-label": "Upload" });
  const status = h("p", { class: "hint", role: "status" });
  const button = h("button", { type: "submit", class: "primary" }, "Upload");
  const form = h("form", { class: "publish" },
    field("Tenant", tenant),
    field("Adapter", name),
    field("Files", files, "a .tar or .tar.gz, or all files of the adapter's folder"),
    h("div", { class: "check" }, promote, h("label", { htmlFor: promote.id }, "Promote it when it is ready")),
    h("div", { class: "actions" }, button, bar, status), names);
  const node = h("details", { class: "card" }, h("summary", {}, "Publish a version"), form);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    bar.hidden = false;
    try {
      const { body, type } = await pack([...files.files]);
      const path = `admin/v1/adapters/${tenant.value}/${name.value}/versions?promote=${promote.checked}`;
      const version = await upload(path, body, type, (part) => {
        bar.value = part;
        status.textContent = part < 1 ? `${Math.round(part * 100)} % of ${bytes(body.size)}` : "Checking and storing…";
      });
      status.textContent = version.warnings.join(" ");
      notice(`${version.tenant}-${version.adapter} has version ${version.number}.`);
      files.value = "";
      await refresh();
    } catch (error) {
      status.textContent = sentence(error);
      status.classList.add("error");
      return;
    } finally {
      button.disabled = false;
      bar.hidden = true;
      bar.removeAttribute("value");
    }
    status.classList.remove("error");
  });

  if (!session.tenant) {
    ask("admin/v1/tenants").then(({ data }) => tenant.replaceChildren(...options(data.map((row) => row.name))), () => {});
  }
  node.suggestNames = (adapters) => names.replaceChildren(...[...new Set(adapters.map((adapter) => adapter.name))].map((text) => h("option", { value: text })));
  return node;
}

async function pack(files) {
  if (files.length === 1 && ARCHIVES.test(files[0].name)) {
    const type = files[0].name.endsWith(".tar") ? "application/x-tar" : "application/gzip";
    return { body: files[0], type };
  }
  return { body: tar(files), type: "application/x-tar" };
}
