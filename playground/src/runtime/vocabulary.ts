// Text ↔ ids, and what the special tokens mean: recurlm.runtime.tokenizer.

import { bytesOf } from "./alphabet.ts";
import { InputError } from "./errors.ts";
import { type Kind, Tokenizer, type TokenizerFile } from "./tokenizer.ts";

const NAMED = 10; // missing characters or words that a message names
// As Python's str.isspace has it.
const ENDS_IN_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]$/u;

export interface Special {
  bos: number | null;
  mask: number | null;
  unk: number | null;
  eol: number | null;
}

/** A stream decoder: fed tokens one by one, it returns their text in whole characters. */
export type Decoder = (id: number) => string;

export class Vocabulary {
  readonly kind: Kind;
  readonly size: number;
  readonly bos: number; // every text begins with it, and a model that generates it ends the text
  readonly mask: number; // a cloze model reads it in place of a masked token
  readonly special: Special;
  private readonly tokenizer: Tokenizer;

  constructor(file: TokenizerFile, kind: Kind, special: Special) {
    if (special.bos === null || special.mask === null)
      throw new InputError("the bundle's vocabulary has no <bos> or no <mask> token: export it again");
    this.kind = kind;
    this.special = special;
    this.bos = special.bos;
    this.mask = special.mask;
    this.tokenizer = new Tokenizer(file, kind);
    this.size = this.tokenizer.tokens.length;
  }

  /** The token ids of a text that the vocabulary must be able to encode. */
  knownIds(text: string, what: string): number[] {
    if (/\p{Surrogate}/u.test(text)) throw new InputError(`${what} is not UTF-8 text`);
    const { ids, unknown } = this.tokenizer.encode(text);
    const lacking = [...new Set(unknown)];
    if (lacking.length) {
      const named = lacking.slice(0, NAMED).map((part) => `‘${part}’`).join(", ");
      const more = lacking.length > NAMED ? ` and ${lacking.length - NAMED} more` : "";
      throw new InputError(`the vocabulary lacks ${named}${more}, found in ${what}: leave it out or write it otherwise`);
    }
    return ids;
  }

  /** The bytes of a byte-level BPE token; a special token has none. */
  private bytes(id: number): number[] {
    return Object.values(this.special).includes(id) ? [] : bytesOf(this.tokenizer.tokens[id] ?? "");
  }

  /** Decode tokens without their context. */
  text(ids: Iterable<number>): string {
    if (this.kind !== "bpe") return this.tokenizer.decode(ids);
    const bytes = Array.from(ids).flatMap((id) => this.bytes(id));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }

  /** A token as it is shown by itself. */
  shown(id: number): string {
    if (id === this.bos) return "end of text";
    if (id === this.mask) return "mask";
    if (this.kind === "word") return this.tokenizer.tokens[id] ?? "";
    const bytes = this.kind === "bpe" ? this.bytes(id) : [];
    const text = this.text([id]);
    // An incomplete character is shown as its bytes.
    return text.includes("\ufffd") ? bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("") : text;
  }

  /** A stream decoder for tokens that follow the text `before`, whose last token is `last`. */
  decoder(before: string, last: number): Decoder {
    if (this.kind === "bpe") {
      // Bytes of a character wait for the others; those that still wait at the end of the text are not given out.
      const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
      return (id) => utf8.decode(Uint8Array.from(this.bytes(id)), { stream: true });
    }
    let endsInSpace = ENDS_IN_SPACE.test(before) && !ENDS_IN_SPACE.test(this.text([last]));
    if (last === this.bos && this.kind === "word") endsInSpace = true; // no space before a text's first word
    return (id) => {
      const text = this.tokenizer.decode([last, id]).slice(this.tokenizer.decode([last]).length);
      const joined = endsInSpace ? text.replace(/^ /, "") : text;
      [last, endsInSpace] = [id, false];
      return joined;
    };
  }
}
