// The page's own code without a page: a question a line on stdin (JSON: what, then its arguments), an answer a line.

import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { type Bundle, type Description, taskOf } from "../../playground/src/runtime/bundle.ts";
import { InputError } from "../../playground/src/runtime/errors.ts";
import { Filler, Stopped } from "../../playground/src/runtime/filler.ts";
import { generate } from "../../playground/src/runtime/generator.ts";
import { Graph } from "../../playground/src/runtime/graph.ts";
import { allowedTokens } from "../../playground/src/runtime/maskedText.ts";
import { forBrowser } from "../../playground/src/runtime/onnx.ts";
import { Uniform } from "../../playground/src/runtime/random.ts";
import { type Sampling, seedOf } from "../../playground/src/runtime/sampling.ts";
import { scoreCloze, StreamScorer, type TokenScore } from "../../playground/src/runtime/scorer.ts";
import { Vocabulary } from "../../playground/src/runtime/vocabulary.ts";

const bundles = new Map<string, Bundle>();
const graphs = new Map<string, Graph>();

function bundleAt(folder: string): Bundle {
  const known = bundles.get(folder);
  if (known) return known;
  const read = (name: string) => JSON.parse(readFileSync(`${folder}/${name}`, "utf8"));
  const description = read("bundle.json") as Description;
  const vocabulary = new Vocabulary(read("tokenizer.json"), description.tokenizer_kind, description.special);
  const bundle = { description, stateSpec: description.state_spec, vocabulary } as Bundle;
  bundles.set(folder, bundle);
  return bundle;
}

async function graphAt(path: string): Promise<Graph> {
  const graph = graphs.get(path) ?? (await Graph.of(readFileSync(path)));
  graphs.set(path, graph);
  return graph;
}

const ANSWERS: Record<string, (...given: any[]) => unknown> = {
  uniform: (seed: string, counts: number[]) => {
    const rng = new Uniform(seedOf(seed));
    return counts.map((count) => [...rng.draw(count)]);
  },
  ids: (folder: string, text: string) => bundleAt(folder).vocabulary.knownIds(text, "the text"),
  text: (folder: string, ids: number[]) => bundleAt(folder).vocabulary.text(ids),
  decode: (folder: string, before: string, last: number, ids: number[]) =>
    ids.map(bundleAt(folder).vocabulary.decoder(before, last)),
  allowed: (folder: string) => {
    const { firstAfterSpace, first, continuation } = allowedTokens(bundleAt(folder).vocabulary);
    return [firstAfterSpace, first, continuation].map((each) => [...each]);
  },
  generate: async (folder: string, prompt: string, count: number, sampling: Sampling, seed: string) => {
    const graph = await graphAt(`${folder}/generator.onnx`);
    const ids: number[] = [];
    let text = "";
    for await (const chunk of generate(bundleAt(folder), graph, prompt, count, sampling, seedOf(seed))) {
      ids.push(...chunk.ids);
      text += chunk.texts.join("");
    }
    return { ids, text };
  },
  fill: async (folder: string, text: string, sampling: Sampling, seed: string) =>
    await new Filler(bundleAt(folder), await graphAt(`${folder}/filler.onnx`)).fill(text, sampling, seedOf(seed)),
  /** How many calls of the graph a filler makes that is stopped after some. */
  stopped: async (folder: string, text: string, sampling: Sampling, after: number) => {
    let calls = 0;
    const goesOn = async () => ++calls < after;
    try {
      await new Filler(bundleAt(folder), await graphAt(`${folder}/filler.onnx`)).fill(text, sampling, seedOf("1"), goesOn);
    } catch (error) {
      if (!(error instanceof Stopped)) throw error;
      return { calls, stopped: true };
    }
    return { calls, stopped: false };
  },
  score: async (folder: string, ids: number[]) => {
    const [bundle, graph] = [bundleAt(folder), await graphAt(`${folder}/step.onnx`)];
    let scores: TokenScore[] = [];
    if (taskOf(bundle.description) === "generate") {
      const scorer = new StreamScorer(bundle, graph);
      for (const id of ids) scores.push(await scorer.score(id));
    } else {
      scores = (await scoreCloze(bundle, graph, [bundle.vocabulary.bos, ...ids])).slice(1);
    }
    return scores.map((score) => ({ ...score, activity: score.activity.map((band) => [...band]) }));
  },
  rewrite: (from: string, to: string) => writeFileSync(to, forBrowser(readFileSync(from))),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [what, ...given] = JSON.parse(line) as [string, ...unknown[]];
  try {
    console.log(JSON.stringify({ answer: (await ANSWERS[what]!(...given)) ?? null }));
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    console.log(JSON.stringify({ refused: error.message }));
  }
}
