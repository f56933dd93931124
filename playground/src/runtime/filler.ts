// Words for the blanks of a text, found from both sides of it, by filler.onnx: recurlm.runtime.filler.
//
// A blank stands for one word, of as many tokens as suit it. The tokens of a blank are filled one after another, the
// surest first, and after each the rest are looked at anew (mask-predict: Ghazvininejad et al. 2019).

import { best, Blanks, type Candidate, candidates, type Kinds, kindsOf, put, type Row } from "./blanks.ts";
import type { Bundle } from "./bundle.ts";
import { InputError } from "./errors.ts";
import { floats, type Graph, integers, numbers, values } from "./graph.ts";
import { Uniform } from "./random.ts";
import { checked, LIKELIEST, type Sampling, samplingFeeds } from "./sampling.ts";

const MOST_TOKENS = { bpe: 3, char: 12, word: 1 }; // of a blank
const LONGEST = 2048; // tokens of a text, which is read whole
const DRAWS = 64; // made when no token drawn at once may stand where it should
const FLATTER = [1, 10, 100]; // temperatures of these draws, until one will do

type Draw = [tokens: number[], logProbs: Float32Array];

export interface Filled {
  text: string;
  ids: number[]; // with the start of the text before them
  blanks: number[][]; // the positions of each blank's tokens among them
}

export class Filler {
  private readonly bundle: Bundle;
  private readonly graph: Graph;
  private readonly kinds: Kinds;

  constructor(bundle: Bundle, graph: Graph) {
    this.bundle = bundle;
    this.graph = graph;
    this.kinds = kindsOf(bundle.vocabulary);
  }

  /** The text with a word in place of each `___`. */
  async fill(text: string, sampling: Sampling, seed: bigint): Promise<Filled> {
    checked(sampling);
    const blanks = new Blanks(text, this.bundle.vocabulary, this.kinds);
    const every = Array.from({ length: blanks.count }, (_, blank) => blank);
    const most = MOST_TOKENS[this.bundle.vocabulary.kind];
    const longest = blanks.row(every.map(() => most), []).ids.length;
    if (longest > LONGEST)
      throw new InputError(`the text has about ${longest} tokens, and at most ${LONGEST} are read at once: shorten it`);
    const sizes: number[] = [];
    for (const blank of every) sizes.push(await this.size(blanks, blank, most));
    const row = blanks.row(sizes, every);
    await this.fillRows([row], sampling, new Uniform(seed));
    return { text: blanks.text(row), ids: row.ids, blanks: row.blanks };
  }

  /** How many tokens suit a blank, the others standing for one token each. */
  private async size(blanks: Blanks, blank: number, most: number): Promise<number> {
    if (most === 1) return 1;
    const rows = Array.from({ length: most }, (_, size) =>
      blanks.row(Array.from({ length: blanks.count }, (_, other) => (other === blank ? size + 1 : 1)), [blank]),
    );
    await this.fillRows(rows, LIKELIEST, new Uniform(0n));
    const likeliest = Math.max(...rows.map((row) => row.logProb));
    return rows.findIndex((row) => row.logProb === likeliest) + 1;
  }

  /** Fill the open positions of all rows, one of each row in a call. */
  private async fillRows(rows: Row[], sampling: Sampling, stream: Uniform): Promise<void> {
    for (;;) {
      const unfinished = rows.filter((row) => row.open.size > 0);
      if (unfinished.length === 0) return;
      const time = Math.max(...unfinished.map((row) => row.ids.length));
      const draws = await this.draw(
        unfinished.map((row) => row.ids),
        sampling,
        stream.draw(unfinished.length * time),
      );
      for (const [at, row] of unfinished.entries()) {
        const found = candidates(row, ...draws[at]!);
        put(row, best(found.length > 0 ? found : await this.search(row, sampling, stream)));
      }
    }
  }

  /**
   * Candidates from many draws, where the single one had none. At temperature 0 the numbers are spread evenly, which
   * finds every token of a probability of at least 1/DRAWS.
   */
  private async search(row: Row, sampling: Sampling, stream: Uniform): Promise<Candidate[]> {
    const width = row.ids.length;
    const likeliest = sampling.temperature === 0;
    const even = Float32Array.from({ length: DRAWS * width }, (_, at) => (Math.floor(at / width) + 0.5) / DRAWS);
    const flatter = FLATTER.map((temperature) => ({ ...LIKELIEST, temperature }));
    for (const setting of likeliest ? flatter : [sampling, ...flatter]) {
      const rows = new Array<number[]>(DRAWS).fill(row.ids);
      const draws = await this.draw(rows, setting, likeliest ? even : stream.draw(even.length));
      const found = draws.map((draw) => candidates(row, ...draw)).filter((each) => each.length > 0);
      if (found.length > 0) return likeliest ? found.flat() : found[0]!;
    }
    throw new InputError("the vocabulary has no token that could stand in a blank of this text");
  }

  /** For each position of each row, a token drawn from both its sides, and its log-probability. */
  private async draw(rows: number[][], sampling: Sampling, uniform: Float32Array): Promise<Draw[]> {
    const time = Math.max(...rows.map((row) => row.length));
    const shape = [rows.length, time];
    const padded = rows.flatMap((row) => [...row, ...new Array<number>(time - row.length).fill(0)]);
    const { filled, log_prob } = await this.graph.run(["filled", "log_prob"], {
      ...samplingFeeds(sampling, rows.length),
      tokens: integers(padded, shape),
      length: integers(rows.map((row) => row.length), [rows.length]),
      uniform: floats(uniform, shape),
    });
    const tokens = numbers(filled!);
    const part = <T>(of: { slice(begin: number, end: number): T }, row: number) => of.slice(row * time, (row + 1) * time);
    return rows.map((_, row) => [part(tokens, row), part(values(log_prob!), row)]);
  }
}
