// Text → ids for the three kinds of tokenizer.json that recurlm writes, as Hugging Face tokenizers reads them.
//
// A file that asks for a step which is not written here is refused, so none is ever read in another way than in Python.

import { ALPHABET } from "./alphabet.ts";
import { InputError } from "./errors.ts";

// White space of Unicode, which JavaScript's \s is not: that has U+FEFF and lacks U+0085.
const S = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const GPT2 = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${S}\\p{L}\\p{N}]+|[${S}]+(?![^${S}])|[${S}]+`,
  "gu",
);
const BETWEEN_WORDS = new RegExp(`[${S}\\x1c-\\x1f]+`, "u");
const EOL = "<eol>";
const LOWERCASE = JSON.stringify({ type: "Lowercase" });
const replace = (pattern: string, content: string) =>
  JSON.stringify({ type: "Replace", pattern: { String: pattern }, content });
// A text that spells out a special token does not become one.
const RESERVED = [replace("<bos>", "<unk>"), replace("<mask>", "<unk>")];
const LINES = replace("\n", ` ${EOL} `);

export type Kind = "bpe" | "char" | "word";

/** What is read of a tokenizer.json. */
export interface TokenizerFile {
  truncation?: unknown; // null, as padding is
  padding?: unknown;
  added_tokens: unknown[];
  normalizer: { type: string; normalizers?: unknown[] } | null;
  pre_tokenizer: { type: string; add_prefix_space?: boolean; use_regex?: boolean; pattern?: { Regex?: string } };
  model: { type: string; vocab: Record<string, number>; merges?: [string, string][]; unk_token?: string | null };
}

export interface Encoded {
  ids: number[];
  unknown: string[]; // the parts of the text that the vocabulary lacks, in their order
}

export class Tokenizer {
  readonly kind: Kind;
  readonly tokens: string[] = []; // by id
  private readonly vocabulary: Map<string, number>;
  private readonly ranks = new Map<string, number>(); // of merges, the first learned being 0
  private readonly pieces = new Map<string, number[]>(); // of words that were met before
  private readonly lowercase: boolean;
  private readonly unknown: number | undefined;

  constructor(file: TokenizerFile, kind: Kind) {
    this.kind = kind;
    this.lowercase = checkedSteps(file, kind);
    this.vocabulary = new Map(Object.entries(file.model.vocab));
    for (const [token, id] of this.vocabulary) this.tokens[id] = token;
    file.model.merges?.forEach(([left, right], rank) => this.ranks.set(`${left} ${right}`, rank));
    this.unknown = this.vocabulary.get(file.model.unk_token ?? "");
  }

  encode(text: string): Encoded {
    switch (this.kind) {
      case "bpe":
        return { ids: (text.match(GPT2) ?? []).flatMap((piece) => this.merged(piece)), unknown: [] };
      case "char":
        return this.looked(Array.from(text));
      case "word": {
        const lower = this.lowercase ? Array.from(text, (character) => character.toLowerCase()).join("") : text;
        const words = lower.replaceAll("\n", ` ${EOL} `).split(BETWEEN_WORDS);
        return this.looked(words.filter((word) => word !== ""));
      }
    }
  }

  /** The text of some tokens; for bpe see `bytesOf`. */
  decode(ids: Iterable<number>): string {
    const tokens = Array.from(ids, (id) => this.tokens[id] ?? "");
    if (this.kind === "char") return tokens.join("");
    const joined = tokens.map((token) => (token === EOL ? "\n" : ` ${token}`)).join("");
    return joined.replaceAll("\n ", "\n").replace(/^ /, "");
  }

  private looked(parts: string[]): Encoded {
    const unknown: string[] = [];
    const ids = parts.map((part) => {
      // A word that spells out <bos> or <mask> is one that the vocabulary lacks.
      const reserved = this.kind === "word" && (part.includes("<bos>") || part.includes("<mask>"));
      const id = reserved ? undefined : this.vocabulary.get(part);
      if (id === undefined) unknown.push(part);
      return id ?? this.unknown!;
    });
    return { ids, unknown };
  }

  /** Byte-pair encoding of one piece: the earliest learned merge first, from the left (Sennrich et al. 2016). */
  private merged(piece: string): number[] {
    const known = this.pieces.get(piece);
    if (known) return known;
    const parts = Array.from(new TextEncoder().encode(piece), (byte) => ALPHABET[byte]!);
    for (;;) {
      let best = Infinity;
      let place = -1;
      for (let at = 0; at + 1 < parts.length; at++) {
        const rank = this.ranks.get(`${parts[at]} ${parts[at + 1]}`) ?? Infinity;
        if (rank < best) [best, place] = [rank, at];
      }
      if (place < 0) break;
      parts.splice(place, 2, parts[place]! + parts[place + 1]!);
    }
    const ids = parts.map((part) => this.vocabulary.get(part)!);
    this.pieces.set(piece, ids);
    return ids;
  }
}

/** Refuse what this reader would not do as Python does; returns whether text is made lower case first. */
function checkedSteps(file: TokenizerFile, kind: Kind): boolean {
  const { normalizer, pre_tokenizer: split, model } = file;
  const steps = (normalizer?.normalizers ?? []).map((step) => JSON.stringify(step));
  const lowercase = steps[0] === LOWERCASE;
  const fits = {
    bpe: () => model.type === "BPE" && !normalizer && split.type === "ByteLevel" && !split.add_prefix_space,
    char: () => model.type === "WordLevel" && !normalizer && split.pattern?.Regex === "[\\s\\S]",
    word: () =>
      model.type === "WordLevel" &&
      JSON.stringify(lowercase ? steps.slice(1) : steps) === JSON.stringify([...RESERVED, LINES]) &&
      split.pattern?.Regex === "[\\s\\x1c-\\x1f]+",
  };
  const more = file.truncation || file.padding || file.added_tokens.length || split.use_regex === false;
  if (!fits[kind]?.() || more)
    throw new InputError(`tokenizer.json is not of kind ${kind} as this page knows it: build the page again`);
  return lowercase;
}
