// Light or dark: as the system has it, until a person says otherwise.

import { element } from "./elements.ts";

type Scheme = "light" | "dark";

export function startScheme(changed: () => void): void {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = kept();
  const scheme = (): Scheme => chosen ?? (dark.matches ? "dark" : "light");
  const show = () => {
    document.documentElement.dataset.scheme = scheme();
    element("scheme").textContent = scheme() === "dark" ? "Light" : "Dark";
    element("scheme").ariaLabel = `Use the ${scheme() === "dark" ? "light" : "dark"} colours`;
    changed();
  };
  element("scheme").addEventListener("click", () => {
    chosen = scheme() === "dark" ? "light" : "dark";
    localStorage.setItem("scheme", chosen);
    show();
  });
  dark.addEventListener("change", show);
  show();
}

function kept(): Scheme | null {
  const scheme = localStorage.getItem("scheme");
  return scheme === "light" || scheme === "dark" ? scheme : null;
}
