// Light or dark: as the system has it, or as the reader chose on this machine.

const STORED = "loragate-theme";
const THEMES = { system: "Theme: system", light: "Theme: light", dark: "Theme: dark" };

function read() {
  const name = localStorage.getItem(STORED);
  return name in THEMES ? name : "system";
}

function show(name, button) {
  document.documentElement.dataset.theme = name;
  button.textContent = THEMES[name];
}

/** Let a button change the theme: system, light, dark. */
export function themeSwitch(button) {
  show(read(), button);
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(read()) + 1) % names.length];
    localStorage.setItem(STORED, next);
    show(next, button);
  });
}
