// Text that goes on from a prompt, drawn inside generator.onnx, chunk after chunk: recurlm.runtime.generator.

import type { Bundle } from "./bundle.ts";
import { InputError } from "./errors.ts";
import { booleans, floats, type Feeds, type Graph, integers, numbers, zeroState } from "./graph.ts";
import { Uniform } from "./random.ts";
import { checked, type Sampling, samplingFeeds } from "./sampling.ts";

// Tokens in a call: 1, 2, 4, … so that the first text comes at once; how they are cut changes none of them.
const LARGEST_CHUNK = 64;
const LONGEST_CALL = 80; // milliseconds: no larger chunks than about this, so that text flows and a stop is heeded

export interface Chunk {
  ids: number[]; // up to the token that ended the text
  texts: string[]; // what each gives out
  milliseconds: number; // that the call took
}

/** Draws `count` tokens after the prompt, or fewer where the model ends the text. */
export async function* generate(
  bundle: Bundle,
  graph: Graph,
  prompt: string,
  count: number,
  sampling: Sampling,
  seed: bigint,
): AsyncGenerator<Chunk> {
  const { vocabulary } = bundle;
  checked(sampling);
  if (!(Number.isInteger(count) && count >= 1)) throw new InputError(`tokens is ${count}: 1 or more`);
  const ids = promptIds(bundle, prompt);
  const decode = vocabulary.decoder(prompt, ids.at(-1)!);
  const stream = new Uniform(seed);
  const penalizes = sampling.repetitionPenalty !== 1;
  const carried = Object.keys(bundle.state).map((name) => `state.${name}`).concat(penalizes ? ["seen"] : []);
  let feeds: Feeds = {
    ...samplingFeeds(sampling, 1),
    ...zeroState(bundle.state),
    min_p: floats([sampling.minP], [1]),
    repetition_penalty: floats([sampling.repetitionPenalty], [1]),
    stop_token: integers([-1], [1]),
    seen: booleans(vocabulary.size, [1, vocabulary.size]),
    prompt: integers(ids, [1, ids.length]),
    prompt_length: integers([ids.length], [1]),
  };
  for (let drawn = 0, size = 1; drawn < count; ) {
    const now = Math.min(size, count - drawn);
    feeds.max_new_tokens = integers([now], []);
    feeds.uniform = floats(stream.draw(now), [1, now]);
    const before = performance.now();
    const after = await graph.run(["tokens", ...carried.map((name) => `next_${name}`)], feeds);
    const milliseconds = performance.now() - before;
    const tokens = numbers(after.tokens!);
    const end = tokens.indexOf(vocabulary.bos);
    const alive = end < 0 ? tokens : tokens.slice(0, end);
    yield { ids: alive, texts: alive.map(decode), milliseconds };
    if (end >= 0) return;
    // The state has read everything but the last token.
    const last = { prompt: integers([tokens.at(-1)!], [1, 1]), prompt_length: integers([1], [1]) };
    feeds = { ...feeds, ...last, ...Object.fromEntries(carried.map((name) => [name, after[`next_${name}`]!])) };
    drawn += now;
    if (2 * milliseconds < LONGEST_CALL) size = Math.min(2 * size, LARGEST_CHUNK);
  }
}

/** The tokens that a model reads of a prompt. */
export function promptIds(bundle: Bundle, prompt: string): number[] {
  return [bundle.vocabulary.bos, ...bundle.vocabulary.knownIds(prompt, "the prompt")];
}
