// A bundle, the folder that ships, over HTTP: a file is used only if its sha256 is the one that was verified.

import { InputError } from "./errors.ts";
import { Graph } from "./graph.ts";
import type { Kind, TokenizerFile } from "./tokenizer.ts";
import { type Special, Vocabulary } from "./vocabulary.ts";

/** Name → shape of one sequence's state, of any rank. */
export type StateSpec = Record<string, number[]>;

/** A bundle in manifest.json: its path, and its bundle.json. */
export interface Description {
  path: string; // relative to the page
  variant: string;
  precision: string;
  objective: "causal" | "cloze"; // predicts the next token, or a masked token from both sides
  parameters: number;
  vocab_size: number;
  tokenizer_kind: Kind;
  special: Special;
  state_spec: StateSpec;
  files: Record<string, { sha256: string; bytes: number }>;
  metrics: Record<string, number | string>;
  verification: { verified?: boolean };
  corpus: { name?: string };
}

/** What a bundle's model does with a text. */
export function taskOf({ objective }: Description): "generate" | "fill" {
  return objective === "causal" ? "generate" : "fill";
}

export interface Manifest {
  bundles: Description[];
}

/** Called with the number of bytes of a file that have arrived. */
export type Progress = (file: string, received: number) => void;

export class Bundle {
  readonly description: Description;
  readonly stateSpec: StateSpec;
  readonly vocabulary: Vocabulary;
  private readonly root: string;

  private constructor(root: string, description: Description, tokenizer: TokenizerFile) {
    this.root = root;
    this.description = description;
    this.stateSpec = description.state_spec;
    this.vocabulary = new Vocabulary(tokenizer, description.tokenizer_kind, description.special);
  }

  /** @param root the page's address, with a slash at its end */
  static async open(root: string, description: Description): Promise<Bundle> {
    const bytes = await fetched(root, description, "tokenizer.json", () => undefined);
    return new Bundle(root, description, JSON.parse(new TextDecoder().decode(bytes)) as TokenizerFile);
  }

  async graph(name: string, progress: Progress): Promise<Graph> {
    return await Graph.of(await fetched(this.root, this.description, name, progress));
  }
}

async function fetched(root: string, of: Description, name: string, progress: Progress): Promise<Uint8Array> {
  const expected = of.files[name];
  if (!expected) throw new InputError(`${of.path} has no ${name}: export it again`);
  const response = await fetch(`${root}${of.path}/${name}`);
  if (!response.ok || !response.body) throw new InputError(`${of.path}/${name}: the server said ${response.status}`);
  const bytes = new Uint8Array(expected.bytes);
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (received + value.length <= bytes.length) bytes.set(value, received);
    received += value.length;
    progress(name, received);
  }
  if (received !== expected.bytes || !(await isVerified(bytes, expected.sha256)))
    throw new InputError(`${of.path}/${name} is not the file that was verified: build the page again`);
  return bytes;
}

async function isVerified(bytes: Uint8Array<ArrayBuffer>, sha256: string): Promise<boolean> {
  // Browsers hash on https and on localhost only; elsewhere the size has to do.
  if (!globalThis.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}
