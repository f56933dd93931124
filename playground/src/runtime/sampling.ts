// Sampling settings, checked as recurlm.runtime.sampling checks them.

import { InputError } from "./errors.ts";
import { type Feeds, floats, integers } from "./graph.ts";

const MIN_TEMPERATURE = 1e-6; // smaller temperatures leave float32's range, and take the likeliest token anyway
const MAX_TOP_K = 2 ** 62;

export interface Sampling {
  temperature: number; // 0 is greedy
  topK: number; // 0 keeps every token
  topP: number; // 1 keeps every token
  minP: number; // 0 keeps every token
  repetitionPenalty: number; // 1 is none
}

export const GREEDY: Sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };

/** Refuse values out of their range, NaN among them. */
export function checked(sampling: Sampling): Sampling {
  const { temperature, topK, topP, minP, repetitionPenalty } = sampling;
  require(temperature >= 0 && temperature <= 100, `temperature is ${temperature}: 0 (the likeliest token) to 100`);
  require(Number.isInteger(topK) && topK >= 0, `top-k is ${topK}: 1 or more, or 0 to keep every token`);
  require(topP > 0 && topP <= 1, `top-p is ${topP}: above 0, up to 1 (keeps every token)`);
  require(minP >= 0 && minP <= 1, `min-p is ${minP}: 0 (keeps every token) to 1`);
  require(
    repetitionPenalty >= 0.01 && repetitionPenalty <= 100,
    `repetition penalty is ${repetitionPenalty}: 0.01 to 100, 1 for none, more against repetition`,
  );
  return sampling;
}

/** The graphs' inputs for a batch with these settings in each row. */
export function samplingFeeds(sampling: Sampling, batch: number): Feeds {
  const rows = <T>(value: T) => new Array<T>(batch).fill(value);
  const temperature = sampling.temperature >= MIN_TEMPERATURE ? sampling.temperature : 0;
  return {
    temperature: floats(rows(temperature), [batch]),
    top_k: integers(rows(Math.min(sampling.topK, MAX_TOP_K)), [batch]),
    top_p: floats(rows(Math.max(sampling.topP, MIN_TEMPERATURE)), [batch]),
  };
}

/** A seed as typed: a whole number of any size. */
export function seedOf(typed: string): bigint {
  const text = typed.trim();
  if (!/^\d+$/.test(text)) throw new InputError(`seed is ${text || "empty"}: a whole number, 0 or more`);
  return BigInt(text);
}

function require(holds: boolean, message: string): void {
  if (!holds) throw new InputError(message);
}
