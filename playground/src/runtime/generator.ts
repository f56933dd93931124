// Text generation with generator.onnx, chunk by chunk: recurlm.runtime.generator.

import type { Bundle } from "./bundle.ts";
import { InputError } from "./errors.ts";
import { booleans, floats, type Feeds, type Graph, integers, numbers, zeroState } from "./graph.ts";
import { Uniform } from "./random.ts";
import { checked, type Sampling, samplingFeeds } from "./sampling.ts";

// Tokens in a call: 1, 2, 4, …: the first text comes at once. The size of chunks changes no token.
const MAX_CHUNK = 64;
const MAX_CALL = 80; // milliseconds: chunks grow no further, so that text flows and a stop comes through

export interface Chunk {
  ids: number[]; // up to `<bos>`, which ends the text
  texts: string[]; // the text that each token adds
  milliseconds: number; // of the call
}

/** Generate `count` tokens after the prompt, or fewer where the model ends the text. */
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
  const rng = new Uniform(seed);
  const penalizes = sampling.repetitionPenalty !== 1;
  const carried = Object.keys(bundle.stateSpec).map((name) => `state.${name}`).concat(penalizes ? ["seen"] : []);
  let feeds: Feeds = {
    ...samplingFeeds(sampling, 1),
    ...zeroState(bundle.stateSpec),
    min_p: floats([sampling.minP], [1]),
    repetition_penalty: floats([sampling.repetitionPenalty], [1]),
    stop_token: integers([-1], [1]),
    seen: booleans(vocabulary.size, [1, vocabulary.size]),
    prompt: integers(ids, [1, ids.length]),
    prompt_length: integers([ids.length], [1]),
  };
  for (let sampled = 0, size = 1; sampled < count; ) {
    const now = Math.min(size, count - sampled);
    feeds.max_new_tokens = integers([now], []);
    feeds.uniform = floats(rng.draw(now), [1, now]);
    const before = performance.now();
    const after = await graph.run(["tokens", ...carried.map((name) => `next_${name}`)], feeds);
    const milliseconds = performance.now() - before;
    const tokens = numbers(after.tokens!);
    const end = tokens.indexOf(vocabulary.bos);
    const alive = end < 0 ? tokens : tokens.slice(0, end);
    yield { ids: alive, texts: alive.map(decode), milliseconds };
    if (end >= 0) return;
    // The state has not read the last token yet.
    const last = { prompt: integers([tokens.at(-1)!], [1, 1]), prompt_length: integers([1], [1]) };
    feeds = { ...feeds, ...last, ...Object.fromEntries(carried.map((name) => [name, after[`next_${name}`]!])) };
    sampled += now;
    if (2 * milliseconds < MAX_CALL) size = Math.min(2 * size, MAX_CHUNK);
  }
}

/** `<bos>` and the prompt's tokens. */
export function promptIds(bundle: Bundle, prompt: string): number[] {
  return [bundle.vocabulary.bos, ...bundle.vocabulary.knownIds(prompt, "the prompt")];
}
