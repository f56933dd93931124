// Text from a recurlm bundle with a bpe tokenizer, in JavaScript.
//
//   npm install onnxruntime-node
//   node generate.mjs path/to/bundle "KING." 50 0.8
//
// Arguments: the bundle, the prompt, the number of tokens, the temperature (0: always the likeliest token).

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const [bundle, prompt = "", count = "50", temperature = "0.8"] = process.argv.slice(2);
const read = (name) => JSON.parse(readFileSync(`${bundle}/${name}`, "utf8"));
const description = read("bundle.json");
if (description.format !== 3 || description.tokenizer_kind !== "bpe") throw new Error("not a bpe bundle of format 3");

// Byte-level BPE: GPT-2's printable character for each byte, its split into words, and merges by their rank.
const { vocab, merges } = read("tokenizer.json").model;
const rank = new Map(merges.map((pair, index) => [pair.join(" "), index]));
const visible = [[33, 126], [161, 172], [174, 255]];
const isVisible = (byte) => visible.some(([first, last]) => first <= byte && byte <= last);
let hidden = 256;
const characters = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isVisible(byte) ? byte : hidden++));
const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

function encode(text) {
  return (text.match(WORD) ?? []).flatMap((word) => {
    const parts = [...new TextEncoder().encode(word)].map((byte) => characters[byte]);
    for (;;) {
      const ranks = parts.slice(1).map((part, index) => rank.get(`${parts[index]} ${part}`) ?? Infinity);
      const best = Math.min(...ranks, Infinity);
      if (best === Infinity) return parts.map((part) => vocab[part]);
      const at = ranks.indexOf(best);
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  });
}

const tokens = new Map(Object.entries(vocab).map(([token, id]) => [id, token]));
const bytes = new Map(characters.map((character, byte) => [character, byte]));
const decode = (ids) => new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => [...tokens.get(id)].map((c) => bytes.get(c)))));

// One call reads the prompt and samples all tokens; a uniform number for each is the only source of chance.
const bos = description.special.bos;
const ids = [bos, ...encode(prompt)];
const int64 = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
const float = (values, shape) => new ort.Tensor("float32", Float32Array.from(values), shape);
const number = Number(count);
const states = Object.entries(description.state_spec).map(([name, shape]) => {
  const zeros = new Float32Array(shape.reduce((size, axis) => size * axis, 1));
  return [`state.${name}`, float(zeros, [1, ...shape])];
});
const session = await ort.InferenceSession.create(`${bundle}/generator.onnx`);
const results = await session.run({
  prompt: int64(ids, [1, ids.length]),
  prompt_length: int64([ids.length], [1]),
  max_new_tokens: int64([number], []),
  temperature: float([Number(temperature)], [1]),
  top_k: int64([40], [1]),
  top_p: float([0.95], [1]),
  uniform: float(Array.from({ length: number }, Math.random), [1, number]),
  min_p: float([0], [1]),
  repetition_penalty: float([1], [1]),
  stop_token: int64([-1], [1]),
  seen: new ort.Tensor("bool", new Uint8Array(description.vocab_size), [1, description.vocab_size]),
  ...Object.fromEntries(states),
});

// A model that samples <bos> ends the text.
const sampled = [...results.tokens.data].map(Number);
const end = sampled.indexOf(bos);
process.stdout.write(`${prompt}${decode(end < 0 ? sampled : sampled.slice(0, end))}\n`);
