// Runs a bundle's graphs in onnxruntime-web, for runtimes.py: as runtime_worker.py does in other runtimes.
//
//   node runtime_worker.mjs < jobs.json > results.json

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
const version = ort.env.versions.web ?? ort.env.versions.common;
const arrays = { int64: BigInt64Array, float32: Float32Array, bool: Uint8Array };
const tensor = ([value, kind, shape]) => {
  const flat = [value].flat(Infinity).map((each) => (kind === "int64" ? BigInt(each) : Number(each)));
  return new ort.Tensor(kind, arrays[kind].from(flat), shape);
};

/** The tokens after a prompt, by step.onnx: the lines of docs/deploy/step.mjs with numbers that were given. */
async function steps(session, { description, prompt, temperature }, uniform) {
  let state = Object.fromEntries(
    Object.entries(description.state_spec).map(([name, shape]) => {
      const size = shape.reduce((product, axis) => product * axis, 1);
      return [`state.${name}`, new ort.Tensor("float32", new Float32Array(size), [1, ...shape])];
    }),
  );
  const never = new Set(description.suppressed_tokens);
  const tokens = [];
  for (let at = 0; at < prompt.length - 1 + uniform.length; at++) {
    const token = at < prompt.length ? prompt[at] : tokens.at(-1);
    const results = await session.run({ token: tensor([[token], "int64", [1]]), ...state });
    state = Object.fromEntries(Object.keys(state).map((name) => [name, results[`next_${name}`]]));
    if (at < prompt.length - 1) continue;
    const scores = Array.from(results.logits.data, (score, id) => (never.has(id) ? -Infinity : score));
    const largest = Math.max(...scores);
    let sum = 0;
    const cumulative = scores.map((score) => (sum += Math.exp((score - largest) / temperature)));
    const threshold = uniform[tokens.length] * sum;
    tokens.push(cumulative.findIndex((weight) => weight > threshold));
  }
  return tokens;
}

async function run(job) {
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  const session = await ort.InferenceSession.create(job.file, options);
  const results = [];
  const seconds = [];
  for (const each of job.uniform ?? job.calls) {
    const feeds = job.calls && Object.fromEntries(Object.entries(each).map(([name, value]) => [name, tensor(value)]));
    const begun = process.cpuUsage();
    const outputs = job.calls ? await session.run(feeds) : await steps(session, job, each);
    const { user, system } = process.cpuUsage(begun);
    seconds.push((user + system) / 1e6);
    const told = (name) => Array.from(outputs[name].data, Number);
    results.push(job.calls ? Object.fromEntries(job.outputs.map((name) => [name, told(name)])) : outputs);
  }
  await session.release();
  return { results, seconds: Math.min(...(seconds.length > 1 ? seconds.slice(1) : seconds)) };
}

const jobs = [];
for (const job of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    jobs.push(await run(job));
  } catch (error) {
    jobs.push({ error: String(error).replaceAll(/\s+/g, " ").slice(0, 200) });
  }
}
process.stdout.write(JSON.stringify({ version, jobs }));
