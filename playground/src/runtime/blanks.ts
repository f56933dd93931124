// A text with blanks: what was typed around them stays as it is, and each becomes a word: recurlm.runtime.blanks.

import { InputError } from "./errors.ts";
import type { Vocabulary } from "./vocabulary.ts";

const BLANK = /_{3,}/;
const OF_WORD = /^['’\-\p{L}\p{M}\p{N}]+$/u;
const ALPHANUMERIC = /[\p{L}\p{N}]/u;

/** For every token, where in a word it may stand: 1 or 0. */
export interface Kinds {
  afterSpace: Uint8Array; // it is a space and the beginning of a word
  first: Uint8Array;
  further: Uint8Array;
}

export interface Candidate {
  logProb: number;
  position: number;
  token: number;
}

/** A text being filled. */
export interface Row {
  ids: number[];
  blanks: number[][]; // the positions of each blank's tokens
  open: Map<number, Uint8Array>; // position still to be filled → which tokens may stand there
  logProb: number; // of the tokens filled in, together
}

export function kindsOf(vocabulary: Vocabulary): Kinds {
  const special = new Set(Object.values(vocabulary.special));
  // A token of half a character, shown as U+FFFD, is no part of a word.
  const texts = Array.from({ length: vocabulary.size }, (_, id) => (special.has(id) ? "" : vocabulary.text([id])));
  const begins = (text: string) => OF_WORD.test(text) && ALPHANUMERIC.test(text);
  const where = (holds: (text: string) => boolean) => Uint8Array.from(texts, (text) => Number(holds(text)));
  return {
    afterSpace: where((text) => text.startsWith(" ") && begins(text.slice(1))),
    first: where(begins),
    further: where((text) => OF_WORD.test(text)),
  };
}

/** A typed text, taken apart at its blanks. */
export class Blanks {
  readonly count: number;
  private readonly vocabulary: Vocabulary;
  private readonly kinds: Kinds;
  private readonly typed: string[];
  private readonly takesSpace: boolean[]; // where a word brings the space before it, the blank takes that along
  private readonly ids: number[][];

  constructor(text: string, vocabulary: Vocabulary, kinds: Kinds) {
    this.vocabulary = vocabulary;
    this.kinds = kinds;
    this.typed = text.split(BLANK);
    this.count = this.typed.length - 1;
    if (this.count === 0)
      throw new InputError("the text has no blank: write ___ (three underscores) where a word is missing");
    const givesSpace = kinds.afterSpace.includes(1);
    this.takesSpace = this.typed.slice(0, -1).map((part) => givesSpace && part.endsWith(" "));
    const own = this.typed.map((part, at) => (this.takesSpace[at] ? part.slice(0, -1) : part));
    this.ids = own.map((part) => vocabulary.knownIds(part, "the text"));
  }

  /** The text's tokens with `sizes[b]` hidden ones for blank b; those of the blanks in `fill` are to be filled. */
  row(sizes: number[], fill: number[]): Row {
    const row: Row = { ids: [this.vocabulary.bos, ...this.ids[0]!], blanks: [], open: new Map(), logProb: 0 };
    sizes.forEach((size, blank) => {
      const positions = Array.from({ length: size }, (_, at) => row.ids.length + at);
      row.blanks.push(positions);
      row.ids.push(...positions.map(() => this.vocabulary.mask), ...this.ids[blank + 1]!);
      if (!fill.includes(blank)) return;
      for (const position of positions) row.open.set(position, this.kinds.further);
      row.open.set(positions[0]!, this.takesSpace[blank] ? this.kinds.afterSpace : this.kinds.first);
    });
    return row;
  }

  /** The typed text with the words of a filled row in its blanks. */
  text(row: Row): string {
    const words = row.blanks.map((positions, blank) => {
      const word = this.vocabulary.text(positions.map((at) => row.ids[at]!));
      return this.takesSpace[blank] ? word.slice(1) : word;
    });
    return this.typed[0] + words.map((word, blank) => word + this.typed[blank + 1]).join("");
  }
}

/** Where a token that was drawn may stand. */
export function candidates(row: Row, tokens: number[], logProbs: ArrayLike<number>): Candidate[] {
  return [...row.open]
    .filter(([at, allowed]) => allowed[tokens[at]!])
    .map(([at]) => ({ logProb: logProbs[at]!, position: at, token: tokens[at]! }));
}

/** The likeliest; of equally likely ones the later position, as Python orders them. */
export function best(found: Candidate[]): Candidate {
  return found.reduce((one, other) => {
    const order = other.logProb - one.logProb || other.position - one.position || other.token - one.token;
    return order > 0 ? other : one;
  });
}

export function put(row: Row, { logProb, position, token }: Candidate): void {
  row.ids[position] = token;
  row.logProb += logProb;
  row.open.delete(position);
}
