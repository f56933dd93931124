// Tokens from a recurlm bundle by step.onnx alone, for runtimes that have no loop; here with onnxruntime.
//
//   npm install onnxruntime-node
//   node step.mjs path/to/bundle 50 0.8 0 45 33
//
// Arguments: the bundle, the number of tokens, the temperature (0: always the likeliest token), and the prompt's token
// ids, <bos> first. It prints the ids that follow, up to a <bos> that the model samples.

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const [bundle, count, temperature, ...prompt] = process.argv.slice(2);
const description = JSON.parse(readFileSync(`${bundle}/bundle.json`, "utf8"));
const session = await ort.InferenceSession.create(`${bundle}/step.onnx`);

let state = Object.fromEntries(
  Object.entries(description.state_spec).map(([name, shape]) => {
    const size = shape.reduce((product, axis) => product * axis, 1);
    return [`state.${name}`, new ort.Tensor("float32", new Float32Array(size), [1, ...shape])];
  }),
);
const never = new Set(description.suppressed_tokens);
const tokens = [];
for (let at = 0, token = 0; at < prompt.length - 1 + Number(count); at++) {
  token = Number(at < prompt.length ? prompt[at] : tokens.at(-1));
  const results = await session.run({ token: new ort.Tensor("int64", BigInt64Array.of(BigInt(token)), [1]), ...state });
  state = Object.fromEntries(Object.keys(state).map((name) => [name, results[`next_${name}`]]));
  if (at < prompt.length - 1) continue;
  const scores = Array.from(results.logits.data, (score, id) => (never.has(id) ? -Infinity : score));
  const largest = Math.max(...scores);
  if (Number(temperature) > 0) {
    let sum = 0;
    const cumulative = scores.map((score) => (sum += Math.exp((score - largest) / Number(temperature))));
    const threshold = Math.random() * sum;
    tokens.push(cumulative.findIndex((weight) => weight > threshold));
  } else tokens.push(scores.indexOf(largest));
}
const end = tokens.indexOf(description.special.bos);
console.log((end < 0 ? tokens : tokens.slice(0, end)).join(" "));
