// What the page and its workers say to each other. `run` numbers what a person asked for: answers to an older one are
// late, and dropped.

import type { Description } from "./runtime/bundle.ts";
import type { Mark } from "./runtime/reader.ts";
import type { Sampling } from "./runtime/sampling.ts";

export type Role = "writer" | "reader";

/** A text to be written on, or whose blanks are to be filled. */
export interface Task {
  text: string;
  count: number; // tokens, for a text that is written on
  sampling: Sampling;
  seed: string;
}

export type Request =
  | { kind: "open"; role: Role; root: string; description: Description; run: number }
  | ({ kind: "write"; run: number } & Task)
  | { kind: "read"; ids: number[]; run: number }
  | { kind: "stop"; run: number };

/** Tokens as they are shown: their texts joined are the text. */
export interface Tokens {
  ids: number[];
  texts: string[];
}

export type Answer = { run: number } & (
  | { kind: "progress"; received: number; total: number }
  | { kind: "opened"; units: number }
  | ({ kind: "prompt"; blanks: number[][] } & Tokens)
  | ({ kind: "chunk"; milliseconds: number } & Tokens)
  | { kind: "marks"; marks: Mark[] }
  | { kind: "done" }
  | { kind: "error"; message: string; expected: boolean }
);
