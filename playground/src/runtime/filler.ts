// Mask filling with filler.onnx: words for the ___ of a text, each predicted from both sides: recurlm.runtime.filler.
//
// Each ___ stands for one word of one or more tokens. Its tokens are filled one after another, the most confident
// first, and after each the others are predicted again (mask-predict: Ghazvininejad et al. 2019).

import type { Bundle } from "./bundle.ts";
import { InputError } from "./errors.ts";
import { floats, type Graph, integers, numbers, values } from "./graph.ts";
import {
  type AllowedTokens,
  allowedTokens,
  best,
  type Candidate,
  candidates,
  fillPosition,
  type MaskedSequence,
  MaskedText,
} from "./maskedText.ts";
import { Uniform } from "./random.ts";
import { checked, GREEDY, type Sampling, samplingFeeds } from "./sampling.ts";

const MAX_WORD_TOKENS = { bpe: 3, char: 12, word: 1 }; // by kind of tokenizer
const MAX_TOKENS = 2048; // of a text, which is read in one call
const RETRIES = 64; // tokens sampled for each position where no sampled token is allowed
const RETRY_TEMPERATURES = [1, 10, 100]; // tried in this order, until a token is allowed

type Samples = [tokens: number[], logProbs: Float32Array];

export interface Filled {
  text: string;
  ids: number[]; // `<bos>` first
  words: number[][]; // the positions of each filled word
}

/** What `fill` throws where it should not go on. */
export class Stopped extends Error {}

export class Filler {
  private readonly bundle: Bundle;
  private readonly graph: Graph;
  private readonly allowed: AllowedTokens;
  private goesOn: () => Promise<boolean> = async () => true; // of the text that is being filled: there is one at a time

  constructor(bundle: Bundle, graph: Graph) {
    this.bundle = bundle;
    this.graph = graph;
    this.allowed = allowedTokens(bundle.vocabulary);
  }

  /**
   * The text with a word in place of each `___`.
   *
   * @param goesOn asked after each call of the graph; `Stopped` is thrown where it says no
   */
  async fill(text: string, sampling: Sampling, seed: bigint, goesOn = async () => true): Promise<Filled> {
    checked(sampling);
    this.goesOn = goesOn;
    const masked = new MaskedText(text, this.bundle.vocabulary, this.allowed);
    const words = Array.from({ length: masked.count }, (_, word) => word);
    const largest = MAX_WORD_TOKENS[this.bundle.vocabulary.kind];
    const tokens = masked.sequence(words.map(() => largest), []).ids.length;
    if (tokens > MAX_TOKENS)
      throw new InputError(`the text has about ${tokens} tokens, and at most ${MAX_TOKENS} are read at once: shorten it`);
    const sizes: number[] = [];
    for (const word of words) sizes.push(await this.bestSize(masked, word, largest));
    const sequence = masked.sequence(sizes, words);
    await this.fillAll([sequence], sampling, new Uniform(seed));
    return { text: masked.text(sequence), ids: sequence.ids, words: sequence.words };
  }

  /** The likeliest number of tokens of a word, with one mask for each of the others. */
  private async bestSize(masked: MaskedText, word: number, largest: number): Promise<number> {
    if (largest === 1) return 1;
    const sequences = Array.from({ length: largest }, (_, size) =>
      masked.sequence(Array.from({ length: masked.count }, (_, other) => (other === word ? size + 1 : 1)), [word]),
    );
    await this.fillAll(sequences, GREEDY, new Uniform(0n));
    const likeliest = Math.max(...sequences.map((sequence) => sequence.logProb));
    return sequences.findIndex((sequence) => sequence.logProb === likeliest) + 1;
  }

  /** Fill all masks, one of each sequence in a call. */
  private async fillAll(sequences: MaskedSequence[], sampling: Sampling, rng: Uniform): Promise<void> {
    for (;;) {
      const unfinished = sequences.filter((sequence) => sequence.allowed.size > 0);
      if (unfinished.length === 0) return;
      const time = Math.max(...unfinished.map((sequence) => sequence.ids.length));
      const samples = await this.sample(
        unfinished.map((sequence) => sequence.ids),
        sampling,
        rng.draw(unfinished.length * time),
      );
      for (const [row, sequence] of unfinished.entries()) {
        const allowed = candidates(sequence, ...samples[row]!);
        fillPosition(sequence, best(allowed.length > 0 ? allowed : await this.retry(sequence, sampling, rng)));
      }
    }
  }

  /**
   * Candidates from many samples, where a single one had none. At temperature 0 the uniform numbers are evenly spaced:
   * they find every token of probability 1/RETRIES or more.
   */
  private async retry(sequence: MaskedSequence, sampling: Sampling, rng: Uniform): Promise<Candidate[]> {
    const time = sequence.ids.length;
    const greedy = sampling.temperature === 0;
    const even = Float32Array.from({ length: RETRIES * time }, (_, index) => (Math.floor(index / time) + 0.5) / RETRIES);
    const hotter = RETRY_TEMPERATURES.map((temperature) => ({ ...GREEDY, temperature }));
    for (const setting of greedy ? hotter : [sampling, ...hotter]) {
      const rows = new Array<number[]>(RETRIES).fill(sequence.ids);
      const samples = await this.sample(rows, setting, greedy ? even : rng.draw(even.length));
      const allowed = samples.map((row) => candidates(sequence, ...row)).filter((each) => each.length > 0);
      if (allowed.length > 0) return greedy ? allowed.flat() : allowed[0]!;
    }
    throw new InputError("the vocabulary has no token that could stand for a mask of this text");
  }

  /** A token sampled for each position of each sequence, and its log-probability. */
  private async sample(sequences: number[][], sampling: Sampling, uniform: Float32Array): Promise<Samples[]> {
    const time = Math.max(...sequences.map((ids) => ids.length));
    const shape = [sequences.length, time];
    const padded = sequences.flatMap((ids) => [...ids, ...new Array<number>(time - ids.length).fill(0)]);
    const { filled, log_prob } = await this.graph.run(["filled", "log_prob"], {
      ...samplingFeeds(sampling, sequences.length),
      tokens: integers(padded, shape),
      length: integers(sequences.map((ids) => ids.length), [sequences.length]),
      uniform: floats(uniform, shape),
    });
    if (!(await this.goesOn())) throw new Stopped();
    const tokens = numbers(filled!);
    const part = <T>(of: { slice(begin: number, end: number): T }, row: number) => of.slice(row * time, (row + 1) * time);
    return sequences.map((_, row) => [part(tokens, row), part(values(log_prob!), row)]);
  }
}
