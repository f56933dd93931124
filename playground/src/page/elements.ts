/** The element of index.html with this id. */
export function element<Kind extends HTMLElement = HTMLElement>(id: string): Kind {
  return document.getElementById(id) as Kind;
}

/** A token's text for a screen reader. */
export function aloud(text: string): string {
  if (text.trim() !== "") return text.trim();
  return text.includes("\n") ? "line end" : "space";
}
