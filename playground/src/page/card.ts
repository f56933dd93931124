// One token's score: a card beside it, and a sentence for a screen reader.

import { aloud, element } from "./elements.ts";
import type { Cell } from "./text.ts";

export class Card {
  private readonly box = element("card");
  private readonly spoken = element("details");

  show(cell: Cell | null, spoken: boolean): void {
    const score = cell?.scores[0];
    this.box.hidden = !score;
    if (!cell || !score) {
      this.spoken.textContent = "";
      return;
    }
    const bits = cell.scores.reduce((sum, each) => sum + each.bits, 0);
    const head = made("p", "head");
    head.append(made("b", "", visible(cell.text)), made("span", "", `${bits.toFixed(1)} bits`));
    const place = `${percent(2 ** -bits)} likely, ${ordinal(score.rank)} of the model's choices`;
    const list = made("ol", "");
    const largest = score.alternatives[0]!.probability;
    for (const { id, text, probability } of score.alternatives) {
      const row = made("li", id === cell.ids[0] ? "chosen" : "");
      row.style.setProperty("--fraction", String(probability / largest));
      row.append(made("span", "", visible(text)), made("span", "", percent(probability)));
      list.append(row);
    }
    this.box.replaceChildren(head, made("p", "", place), list);
    this.place(cell.span);
    const likeliest = score.alternatives.slice(0, 3).map((each) => `${aloud(each.text)} ${percent(each.probability)}`);
    this.spoken.textContent = spoken
      ? `${aloud(cell.text)}: ${bits.toFixed(1)} bits, ${place}. Likeliest: ${likeliest.join(", ")}.`
      : "";
  }

  private place(span: HTMLElement): void {
    const page = element("page").getBoundingClientRect();
    const rect = [...span.getClientRects()].find((each) => each.width > 0) ?? span.getBoundingClientRect();
    const left = Math.max(0, Math.min(rect.left - page.left, page.width - this.box.offsetWidth));
    const below = rect.bottom - page.top + 6;
    const above = rect.top - page.top - this.box.offsetHeight - 6;
    const fits = rect.bottom + this.box.offsetHeight + 12 < innerHeight || rect.top < this.box.offsetHeight + 12;
    this.box.style.translate = `${left}px ${fits ? below : above}px`;
  }
}

function made(tag: string, className: string, text = ""): HTMLElement {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

/** A token's text with its spaces and line ends to be seen. */
function visible(text: string): string {
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

function percent(probability: number): string {
  const percents = 100 * probability;
  if (percents < 0.01) return "under 0.01 %";
  return `${percents.toFixed(percents < 1 ? 2 : percents < 10 ? 1 : 0)} %`;
}

function ordinal(rank: number): string {
  const ending = { one: "st", two: "nd", few: "rd", other: "th", zero: "th", many: "th" };
  return `${rank.toLocaleString("en")}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(rank)]}`;
}
