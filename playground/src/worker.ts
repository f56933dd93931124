// One bundle's graph off the page's thread. The page has two such workers: one generates, the other scores the tokens.

import * as ort from "onnxruntime-web/wasm";
import loader from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import binary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

import type { Answer, Request, Role } from "./messages.ts";
import { Activity } from "./runtime/activity.ts";
import { Bundle, type Description, taskOf } from "./runtime/bundle.ts";
import { InputError } from "./runtime/errors.ts";
import { Filler, Stopped } from "./runtime/filler.ts";
import { generate, promptIds } from "./runtime/generator.ts";
import type { Graph } from "./runtime/graph.ts";
import { seedOf } from "./runtime/sampling.ts";
import { scoreCloze, StreamScorer, type TokenScore } from "./runtime/scorer.ts";

ort.env.wasm.wasmPaths = { mjs: loader, wasm: binary };
ort.env.wasm.numThreads = 1; // more need headers that a plain static host does not send
const BATCH = 16; // tokens scored between two answers

type Of<Kind extends Request["kind"]> = Extract<Request, { kind: Kind }>;
type Reply = Answer extends infer Each ? (Each extends { run: number } ? Omit<Each, "run"> : never) : never;

let opened: { bundle: Bundle; graph: Graph; filler: Filler | null } | null = null;
let scorer: StreamScorer | null = null;
let current = 0; // the latest run
let opening = 0; // the run that asked for the latest bundle
let work: Promise<void> = Promise.resolve();

addEventListener("message", ({ data }: MessageEvent<Request>) => {
  if (data.kind === "open") opening = data.run;
  if (data.run !== current) [current, scorer] = [data.run, null];
  if (data.kind === "stop") return;
  work = work.then(() => (data.run === (data.kind === "open" ? opening : current) ? handle(data) : undefined));
});

async function handle(request: Exclude<Request, { kind: "stop" }>): Promise<void> {
  const reply = (answer: Reply) => postMessage({ ...answer, run: request.run } as Answer);
  try {
    if (request.kind === "open") await open(request, reply);
    else if (request.kind === "score") await score(request, reply);
    else if (opened?.filler) await fill(request, reply);
    else await continuePrompt(request, reply);
  } catch (error) {
    if (error instanceof Stopped) return;
    const expected = error instanceof InputError;
    reply({ kind: "error", message: error instanceof Error ? error.message : String(error), expected });
  }
}

async function open({ role, root, description }: Of<"open">, reply: (answer: Reply) => void): Promise<void> {
  const name = graphOf(role, description);
  const before = opened;
  opened = null;
  await before?.graph.release();
  const bundle = await Bundle.open(root, description);
  const total = description.files[name]?.bytes ?? 0;
  const graph = await bundle.graph(name, (_, received) => reply({ kind: "progress", received, total }));
  opened = { bundle, graph, filler: name === "filler.onnx" ? new Filler(bundle, graph) : null };
  reply({ kind: "opened", bands: role === "scorer" ? new Activity(bundle.stateSpec, graph).bands : [] });
}

function graphOf(role: Role, description: Description): string {
  if (role === "scorer") return "step.onnx";
  return taskOf(description) === "generate" ? "generator.onnx" : "filler.onnx";
}

async function continuePrompt(request: Of<"generate">, reply: (answer: Reply) => void): Promise<void> {
  const { bundle, graph } = ready();
  const chunks = generate(bundle, graph, request.text, request.count, request.sampling, seedOf(request.seed));
  let prompt = false;
  for await (const { ids, texts, milliseconds } of chunks) {
    if (request.run !== current) return;
    if (!prompt) reply({ kind: "prompt", ...shown(bundle, promptIds(bundle, request.text)), words: [] });
    prompt = true;
    reply({ kind: "chunk", ids, texts, milliseconds });
    await messages();
  }
  reply({ kind: "done" });
}

async function fill(request: Of<"generate">, reply: (answer: Reply) => void): Promise<void> {
  const { bundle, filler } = ready();
  const goesOn = async () => {
    await messages();
    return request.run === current;
  };
  const { ids, words } = await filler!.fill(request.text, request.sampling, seedOf(request.seed), goesOn);
  // `<bos>` is not shown.
  const shownWords = words.map((positions) => positions.map((position) => position - 1));
  reply({ kind: "prompt", ...shown(bundle, ids), words: shownWords });
  reply({ kind: "done" });
}

async function score({ ids, run }: Of<"score">, reply: (answer: Reply) => void): Promise<void> {
  const { bundle, graph } = ready();
  if (taskOf(bundle.description) === "fill") {
    const scores = await scoreCloze(bundle, graph, [bundle.vocabulary.bos, ...ids]);
    reply({ kind: "scores", scores: scores.slice(1) });
    return;
  }
  scorer ??= new StreamScorer(bundle, graph);
  for (let at = 0; at < ids.length; at += BATCH) {
    const scores: TokenScore[] = [];
    for (const id of ids.slice(at, at + BATCH)) scores.push(await scorer.score(id));
    await messages();
    if (run !== current) return;
    reply({ kind: "scores", scores });
  }
}

/** Tokens of a text, without `<bos>`. */
function shown(bundle: Bundle, ids: number[]): { ids: number[]; texts: string[] } {
  const decode = bundle.vocabulary.decoder("", ids[0]!);
  return { ids: ids.slice(1), texts: ids.slice(1).map(decode) };
}

function ready(): NonNullable<typeof opened> {
  if (!opened) throw new InputError("the model has not been loaded");
  return opened;
}

/** Let waiting messages in, such as a stop. A timer would cost milliseconds a chunk. */
function messages(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
