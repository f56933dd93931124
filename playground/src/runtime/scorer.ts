// Each token's surprisal, its likeliest alternatives, and what the model did when it read it.
//
// step.onnx reads the tokens again, one after another, since generator.onnx returns no probabilities. These are the
// model's own, before temperature, top-k, top-p and min-p.

import { Activity } from "./activity.ts";
import type { Bundle } from "./bundle.ts";
import { type Feeds, floats, type Graph, integers, sizeOf, type Tensor, values, zeroState } from "./graph.ts";

const ALTERNATIVES = 6;

export interface Alternative {
  id: number;
  text: string;
  probability: number;
}

/** What a model predicted in the place of one token. */
export interface TokenScore {
  bits: number; // −log2 of the token's probability: its surprisal
  rank: number; // of the token; 1 is the likeliest
  alternatives: Alternative[];
  activity: Float32Array[]; // the values of each of `Activity`'s bands
}

/** Scores a text from `<bos>` on, token by token. */
export class StreamScorer {
  private readonly bundle: Bundle;
  private readonly graph: Graph;
  private readonly activity: Activity;
  private state: Feeds;
  private gates: Feeds = {};
  private logits: Float32Array | null = null;

  constructor(bundle: Bundle, graph: Graph) {
    this.bundle = bundle;
    this.graph = graph;
    this.activity = new Activity(bundle.stateSpec, graph);
    this.state = zeroState(bundle.stateSpec);
  }

  async score(id: number): Promise<TokenScore> {
    this.logits ??= await this.step(this.bundle.vocabulary.bos);
    const before = this.logits;
    this.logits = await this.step(id);
    return { ...scored(this.bundle, before, id), activity: this.activity.column({ ...this.state, ...this.gates }) };
  }

  private async step(id: number): Promise<Float32Array> {
    const names = Object.keys(this.state);
    const outputs = ["logits", ...names.map((name) => `next_${name}`), ...this.activity.gates];
    const after = await this.graph.run(outputs, { token: integers([id], [1]), ...this.state });
    this.state = Object.fromEntries(names.map((name) => [name, after[`next_${name}`]!]));
    this.gates = after;
    return values(after.logits!);
  }
}

/**
 * Score a whole text with a cloze model, which predicts each token from both sides.
 *
 *     call 1 … n    row 0 reads a b c …, row 1 reads … c b a: the states of each side before each token
 *     last call     a row for each token, with the states of both sides: the logits
 */
export async function scoreCloze(bundle: Bundle, graph: Graph, ids: number[]): Promise<TokenScore[]> {
  const names = Object.keys(bundle.stateSpec).map((name) => `state.${name}`);
  const zero = zeroState(bundle.stateSpec);
  let state: Feeds = Object.fromEntries(names.map((name) => [name, joined([zero[name]!, zero[name]!], [0, 0])]));
  const states: Feeds[] = [];
  for (let at = 0; at < ids.length; at++) {
    states.push(state);
    const after = await graph.run(names.map((name) => `next_${name}`), {
      token: integers([ids[at]!, ids[ids.length - 1 - at]!], [2]),
      ...state,
    });
    state = Object.fromEntries(names.map((name) => [name, after[`next_${name}`]!]));
  }
  const sides = names.map((name) => {
    const fromRight = name.startsWith("state.right.");
    const before = ids.map((_, at) => states[fromRight ? ids.length - 1 - at : at]![name]!);
    return [name, joined(before, ids.map(() => Number(fromRight)))] as const;
  });
  const both = Object.fromEntries(sides);
  const activity = new Activity(bundle.stateSpec, graph);
  const last = await graph.run(["logits", ...activity.gates], { token: integers(ids, [ids.length]), ...both });
  const size = bundle.vocabulary.size;
  return ids.map((id, at) => ({
    ...scored(bundle, values(last.logits!).subarray(at * size, (at + 1) * size), id),
    activity: activity.column({ ...both, ...last }, at),
  }));
}

/** One row of each tensor, as the rows of one tensor. */
function joined(tensors: Tensor[], rows: number[]): Tensor {
  const shape = tensors[0]!.dims.slice(1);
  const size = sizeOf(shape);
  const whole = new Float32Array(tensors.length * size);
  tensors.forEach((tensor, at) => whole.set(values(tensor).subarray(rows[at]! * size, (rows[at]! + 1) * size), at * size));
  return floats(whole, [tensors.length, ...shape]);
}

function scored(bundle: Bundle, logits: Float32Array, id: number): Omit<TokenScore, "activity"> {
  const largest = logits.reduce((one, other) => Math.max(one, other), -Infinity);
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  const probability = (of: number) => Math.exp(logits[of]! - largest) / total;
  const top: number[] = [];
  let rank = 1;
  for (let at = 0; at < logits.length; at++) {
    if (logits[at]! > logits[id]!) rank++;
    if (top.length === ALTERNATIVES && logits[at]! <= logits[top.at(-1)!]!) continue;
    const place = top.findIndex((other) => logits[at]! > logits[other]!);
    top.splice(place < 0 ? top.length : place, 0, at);
    top.length = Math.min(top.length, ALTERNATIVES);
  }
  const bits = (largest + Math.log(total) - logits[id]!) / Math.LN2;
  const alternatives = top.map((other) => ({
    id: other,
    text: bundle.vocabulary.shown(other),
    probability: probability(other),
  }));
  return { bits, rank, alternatives };
}
