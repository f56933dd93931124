// The text as its tokens, each coloured by its surprisal, and the one that is selected.

import type { TokenScore } from "../runtime/scorer.ts";
import { aloud, element } from "./elements.ts";

const MAX_BITS = 14; // full colour

/** What stands on the page for one token, or for the tokens of one character. */
export interface Cell {
  span: HTMLElement;
  ids: number[];
  text: string;
  scores: TokenScore[];
}

export class TokenText {
  readonly cells: Cell[] = [];
  private readonly box: HTMLElement;
  private readonly suffix: string;
  private readonly looked: (cell: Cell | null, at: number) => void;
  private waiting: number[] = []; // tokens of a character that is not whole yet
  private readonly owners: Cell[] = []; // by token, the cell it stands in
  private scored = 0; // tokens that have their score
  private active = -1;
  private pinned = false; // by keyboard or touch: the pointer's leaving does not end it

  /** @param suffix of the ids of its elements */
  constructor(suffix: string, looked: (cell: Cell | null, at: number) => void) {
    this.suffix = suffix;
    this.box = element(`tokens${suffix}`);
    this.looked = looked;
    const at = (event: Event) => this.cells.findIndex((cell) => cell.span === event.target);
    this.box.addEventListener("pointerover", (event) => at(event) >= 0 && this.look(at(event), event.pointerType !== "mouse"));
    this.box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && !this.pinned && this.look(-1));
    this.box.addEventListener("click", (event) => at(event) >= 0 && this.look(at(event), true));
    this.box.addEventListener("focus", () => this.box.matches(":focus-visible") && this.active < 0 && this.look(0, true));
    this.box.addEventListener("blur", () => this.look(-1));
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  clear(): void {
    this.look(-1);
    this.box.replaceChildren();
    this.cells.length = this.owners.length = this.waiting.length = this.scored = 0;
  }

  /** @param kind of these tokens: "given" as a prompt, "generated" after it, "filled" in place of a mask, or "around" one */
  add(ids: number[], texts: string[], kind: (at: number) => string): void {
    const fresh = document.createDocumentFragment();
    ids.forEach((id, at) => {
      this.waiting.push(id);
      const text = texts[at]!;
      if (text === "") return;
      const span = Object.assign(document.createElement("span"), { className: `token ${kind(at)}`, textContent: text });
      span.id = `token${this.suffix}-${this.cells.length}`;
      span.role = "option";
      span.ariaSelected = "false";
      span.dataset.ids = this.waiting.join(" ");
      if (text.includes("\n")) span.classList.add("line");
      if (text.trim() === "") span.ariaLabel = aloud(text);
      const cell: Cell = { span, ids: this.waiting, text, scores: [] };
      this.cells.push(cell);
      this.owners.push(...this.waiting.map(() => cell));
      this.waiting = [];
      fresh.append(span);
    });
    this.box.append(fresh);
  }

  addScores(scores: TokenScore[]): void {
    for (const score of scores) {
      const cell = this.owners[this.scored++];
      if (!cell) continue;
      cell.scores.push(score);
      const bits = cell.scores.reduce((sum, each) => sum + each.bits, 0);
      cell.span.style.setProperty("--surprisal", Math.min(1, bits / MAX_BITS).toFixed(3));
      cell.span.dataset.bits = bits.toFixed(4);
      if (this.cells[this.active] === cell) this.looked(cell, this.active);
    }
  }

  /** Look at a cell; at none for −1. */
  look(at: number, pinned = false): void {
    this.pinned = at >= 0 && pinned;
    if (at === this.active) return;
    this.cells[this.active]?.span.setAttribute("aria-selected", "false");
    this.active = at;
    const cell = this.cells[at] ?? null;
    cell?.span.setAttribute("aria-selected", "true");
    if (cell) this.box.setAttribute("aria-activedescendant", cell.span.id);
    else this.box.removeAttribute("aria-activedescendant");
    this.looked(cell, at);
  }

  /** The cell that the token of this place stands in. */
  lookAtToken(token: number): void {
    const cell = this.owners[token];
    if (cell) this.look(this.cells.indexOf(cell));
  }

  get isPinned(): boolean {
    return this.pinned;
  }

  private key(event: KeyboardEvent): void {
    const last = this.cells.length - 1;
    const place = {
      ArrowRight: Math.min(last, this.active + 1),
      ArrowDown: Math.min(last, this.active + 1),
      ArrowLeft: Math.max(0, this.active - 1),
      ArrowUp: Math.max(0, this.active - 1),
      Home: 0,
      End: last,
      Escape: -1,
    }[event.key];
    if (place === undefined || last < 0) return;
    event.preventDefault();
    this.look(place, true);
    this.cells[place]?.span.scrollIntoView({ block: "nearest" });
  }
}
