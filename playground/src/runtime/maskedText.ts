// A text with ___ in place of words, as token ids with <mask> for mask filling: recurlm.runtime.filler.

import { InputError } from "./errors.ts";
import type { Vocabulary } from "./vocabulary.ts";

const MARKER = /_{3,}/;
const WORD_PART = /^['’\-\p{L}\p{M}\p{N}]+$/u;
const ALPHANUMERIC = /[\p{L}\p{N}]/u;

/** Three masks over the vocabulary: where in a word a token may stand, 1 or 0. */
export interface AllowedTokens {
  firstAfterSpace: Uint8Array; // a space and the beginning of a word
  first: Uint8Array;
  continuation: Uint8Array;
}

/** A token that may fill a masked position. */
export interface Candidate {
  logProb: number;
  position: number;
  token: number;
}

/** The token ids of a text while its masks are being filled. */
export interface MaskedSequence {
  ids: number[];
  words: number[][]; // the positions of each masked word
  allowed: Map<number, Uint8Array>; // position still masked → mask over the vocabulary
  logProb: number; // sum over the filled tokens
}

export function allowedTokens(vocabulary: Vocabulary): AllowedTokens {
  const special = new Set(Object.values(vocabulary.special));
  // A token that is an incomplete character, decoded as U+FFFD, is no part of a word.
  const texts = Array.from({ length: vocabulary.size }, (_, id) => (special.has(id) ? "" : vocabulary.text([id])));
  const begins = (text: string) => WORD_PART.test(text) && ALPHANUMERIC.test(text);
  const mask = (holds: (text: string) => boolean) => Uint8Array.from(texts, (text) => Number(holds(text)));
  return {
    firstAfterSpace: mask((text) => text.startsWith(" ") && begins(text.slice(1))),
    first: mask(begins),
    continuation: mask((text) => WORD_PART.test(text)),
  };
}

/** A typed text, split at its `___`. */
export class MaskedText {
  readonly count: number; // of masked words
  private readonly vocabulary: Vocabulary;
  private readonly allowed: AllowedTokens;
  private readonly parts: string[];
  private readonly takesSpace: boolean[]; // where a word's token brings the space before it, the mask stands for both
  private readonly ids: number[][];

  constructor(text: string, vocabulary: Vocabulary, allowed: AllowedTokens) {
    this.vocabulary = vocabulary;
    this.allowed = allowed;
    this.parts = text.split(MARKER);
    this.count = this.parts.length - 1;
    if (this.count === 0)
      throw new InputError("the text has no mask: write ___ (three underscores) where a word is missing");
    const hasSpaceTokens = allowed.firstAfterSpace.includes(1);
    this.takesSpace = this.parts.slice(0, -1).map((part) => hasSpaceTokens && part.endsWith(" "));
    const encoded = this.parts.map((part, index) => (this.takesSpace[index] ? part.slice(0, -1) : part));
    this.ids = encoded.map((part) => vocabulary.knownIds(part, "the text"));
  }

  /** The token ids with `sizes[w]` masks for word w; only the words `toFill` will be filled. */
  sequence(sizes: number[], toFill: number[]): MaskedSequence {
    const sequence: MaskedSequence = {
      ids: [this.vocabulary.bos, ...this.ids[0]!],
      words: [],
      allowed: new Map(),
      logProb: 0,
    };
    sizes.forEach((size, word) => {
      const positions = Array.from({ length: size }, (_, index) => sequence.ids.length + index);
      sequence.words.push(positions);
      sequence.ids.push(...positions.map(() => this.vocabulary.mask), ...this.ids[word + 1]!);
      if (!toFill.includes(word)) return;
      for (const position of positions) sequence.allowed.set(position, this.allowed.continuation);
      sequence.allowed.set(positions[0]!, this.takesSpace[word] ? this.allowed.firstAfterSpace : this.allowed.first);
    });
    return sequence;
  }

  /** The typed text with the words of a filled sequence in place of `___`. */
  text(sequence: MaskedSequence): string {
    const words = sequence.words.map((positions, word) => {
      const text = this.vocabulary.text(positions.map((position) => sequence.ids[position]!));
      return this.takesSpace[word] ? text.slice(1) : text;
    });
    return this.parts[0] + words.map((text, word) => text + this.parts[word + 1]).join("");
  }
}

/** The allowed ones of the tokens that were sampled, one a position. */
export function candidates(sequence: MaskedSequence, tokens: number[], logProbs: ArrayLike<number>): Candidate[] {
  return [...sequence.allowed]
    .filter(([position, allowed]) => allowed[tokens[position]!])
    .map(([position]) => ({ logProb: logProbs[position]!, position, token: tokens[position]! }));
}

/** The likeliest; of equally likely ones the later position, as Python orders them. */
export function best(of: Candidate[]): Candidate {
  return of.reduce((before, other) => {
    const order = other.logProb - before.logProb || other.position - before.position || other.token - before.token;
    return order > 0 ? other : before;
  });
}

export function fillPosition(sequence: MaskedSequence, { logProb, position, token }: Candidate): void {
  sequence.ids[position] = token;
  sequence.logProb += logProb;
  sequence.allowed.delete(position);
}
