// One bundle's graph off the page's thread. The page has two such workers: one writes, the other reads what was written.

import * as ort from "onnxruntime-web/wasm";
import loader from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import binary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

import type { Answer, Request, Role } from "./messages.ts";
import { Bundle } from "./runtime/bundle.ts";
import { InputError } from "./runtime/errors.ts";
import { Filler } from "./runtime/filler.ts";
import { generate, promptIds } from "./runtime/generator.ts";
import type { Graph } from "./runtime/graph.ts";
import { type Mark, lastHidden, readCloze, Reader } from "./runtime/reader.ts";
import { seedOf } from "./runtime/sampling.ts";

ort.env.wasm.wasmPaths = { mjs: loader, wasm: binary };
ort.env.wasm.numThreads = 1; // more need headers that a plain static host does not send
const BATCH = 16; // tokens read between two answers

type Of<Kind extends Request["kind"]> = Extract<Request, { kind: Kind }>;
type Told = Answer extends infer Each ? (Each extends { run: number } ? Omit<Each, "run"> : never) : never;

let opened: { bundle: Bundle; graph: Graph; filler: Filler | null } | null = null;
let reader: Reader | null = null;
let current = 0; // the run that counts
let opening = 0; // and the bundle
let work: Promise<void> = Promise.resolve();

addEventListener("message", ({ data }: MessageEvent<Request>) => {
  if (data.kind === "open") opening = data.run;
  if (data.run !== current) [current, reader] = [data.run, null];
  if (data.kind === "stop") return;
  work = work.then(() => (data.run === (data.kind === "open" ? opening : current) ? handled(data) : undefined));
});

async function handled(request: Exclude<Request, { kind: "stop" }>): Promise<void> {
  const tell = (answer: Told) => postMessage({ ...answer, run: request.run } as Answer);
  try {
    if (request.kind === "open") await open(request, tell);
    else if (request.kind === "read") await read(request, tell);
    else if (opened?.filler) await fill(request, tell);
    else await write(request, tell);
  } catch (error) {
    const expected = error instanceof InputError;
    tell({ kind: "error", message: error instanceof Error ? error.message : String(error), expected });
  }
}

async function open({ role, root, description }: Of<"open">, tell: (answer: Told) => void): Promise<void> {
  const name = graphOf(role, description.causal);
  const before = opened;
  opened = null;
  await before?.graph.release();
  const bundle = await Bundle.open(root, description);
  const total = description.files[name]?.bytes ?? 0;
  const graph = await bundle.graph(name, (_, received) => tell({ kind: "progress", received, total }));
  opened = { bundle, graph, filler: role === "writer" && !description.causal ? new Filler(bundle, graph) : null };
  const shapes = lastHidden(bundle).map((name) => bundle.state[name.slice("state.".length)]!.at(-1)!);
  tell({ kind: "opened", units: shapes.reduce((sum, size) => sum + size, 0) });
}

function graphOf(role: Role, causal: boolean): string {
  if (role === "reader") return "step.onnx";
  return causal ? "generator.onnx" : "filler.onnx";
}

async function write(request: Of<"write">, tell: (answer: Told) => void): Promise<void> {
  const { bundle, graph } = ready();
  const chunks = generate(bundle, graph, request.text, request.count, request.sampling, seedOf(request.seed));
  let prompt = false;
  for await (const { ids, texts, milliseconds } of chunks) {
    if (request.run !== current) return;
    if (!prompt) tell({ kind: "prompt", ...shown(bundle, promptIds(bundle, request.text)), blanks: [] });
    prompt = true;
    tell({ kind: "chunk", ids, texts, milliseconds });
    await messages();
  }
  tell({ kind: "done" });
}

async function fill(request: Of<"write">, tell: (answer: Told) => void): Promise<void> {
  const { bundle, filler } = ready();
  const { ids, blanks } = await filler!.fill(request.text, request.sampling, seedOf(request.seed));
  // The start of the text is not shown.
  const places = blanks.map((positions) => positions.map((position) => position - 1));
  tell({ kind: "prompt", ...shown(bundle, ids), blanks: places });
  tell({ kind: "done" });
}

async function read({ ids, run }: Of<"read">, tell: (answer: Told) => void): Promise<void> {
  const { bundle, graph } = ready();
  if (!bundle.description.causal) {
    const marks = await readCloze(bundle, graph, [bundle.vocabulary.bos, ...ids]);
    tell({ kind: "marks", marks: marks.slice(1) });
    return;
  }
  reader ??= new Reader(bundle, graph);
  for (let at = 0; at < ids.length; at += BATCH) {
    const marks: Mark[] = [];
    for (const id of ids.slice(at, at + BATCH)) marks.push(await reader.read(id));
    await messages();
    if (run !== current) return;
    tell({ kind: "marks", marks });
  }
}

/** Tokens of a text, without its start. */
function shown(bundle: Bundle, ids: number[]): { ids: number[]; texts: string[] } {
  const decode = bundle.vocabulary.decoder("", ids[0]!);
  return { ids: ids.slice(1), texts: ids.slice(1).map(decode) };
}

function ready(): NonNullable<typeof opened> {
  if (!opened) throw new InputError("the model has not been loaded");
  return opened;
}

/** Let messages that wait come in: a stop among them. A timer would cost milliseconds a chunk. */
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
