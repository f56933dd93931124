// Messages between the page and its workers. `run` numbers the requests: answers to an older one are dropped.

import type { Band } from "./runtime/activity.ts";
import type { Description } from "./runtime/bundle.ts";
import type { Sampling } from "./runtime/sampling.ts";
import type { TokenScore } from "./runtime/scorer.ts";

export type Role = "generator" | "scorer"; // the first also fills masks

/** A prompt to continue, or a text whose masks to fill. */
export interface Task {
  text: string;
  count: number; // of new tokens after a prompt
  sampling: Sampling;
  seed: string;
}

export type Request =
  | { kind: "open"; role: Role; root: string; description: Description; run: number }
  | ({ kind: "generate"; run: number } & Task)
  | { kind: "score"; ids: number[]; run: number }
  | { kind: "stop"; run: number };

/** Token ids and the text that each adds. */
export interface Tokens {
  ids: number[];
  texts: string[];
}

export type Answer = { run: number } & (
  | { kind: "progress"; received: number; total: number }
  | { kind: "opened"; bands: Band[] } // none by the generator
  | ({ kind: "prompt"; words: number[][] } & Tokens)
  | ({ kind: "chunk"; milliseconds: number } & Tokens)
  | { kind: "scores"; scores: TokenScore[] }
  | { kind: "done" }
  | { kind: "error"; message: string; expected: boolean }
);
