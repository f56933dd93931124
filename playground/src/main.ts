// The page: the form, and one or two models that answer it.

import "@fontsource-variable/source-serif-4";
import "@fontsource-variable/source-serif-4/wght-italic.css";
import "./style.css";

import { Card } from "./page/card.ts";
import { element } from "./page/elements.ts";
import { Form } from "./page/form.ts";
import { Pane, rounded } from "./page/pane.ts";
import { startScheme } from "./page/scheme.ts";
import { type Description, type Manifest, taskOf } from "./runtime/bundle.ts";

const root = new URL(".", location.href).href;
const loading = element<HTMLProgressElement>("loading");
const stop = element<HTMLButtonElement>("stop");

const card = new Card();
const events = { loading: load, ready, finished, problem };
const first = new Pane(root, "", card, events);
const second = new Pane(root, "-2", card, events);
second.hidden = true;

let form: Form;
let greeting = true; // what is loaded first generates at once, with what the form or the address holds

startScheme(() => [first, second].forEach((pane) => pane.strip.redraw()));
element<HTMLDetailsElement>("more").open = matchMedia("(min-width: 60rem)").matches;
stop.addEventListener("click", () => panes().forEach((pane) => pane.stop()));
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  begin();
});
void start();

async function start(): Promise<void> {
  try {
    const response = await fetch(`${root}manifest.json`);
    if (!response.ok) throw new Error(`manifest.json: the server said ${response.status}`);
    const { bundles } = (await response.json()) as Manifest;
    form = new Form(bundles, choose, chooseOther);
    choose(form.bundle);
    chooseOther(form.other);
  } catch (error) {
    problem(error instanceof Error ? error.message : String(error));
  }
}

function choose(bundle: Description): void {
  open(first, bundle);
  first.heading = form.other ? nameOf(bundle) : "Text";
  facts();
}

function chooseOther(bundle: Description | null): void {
  second.hidden = bundle === null;
  element("page").classList.toggle("two", bundle !== null);
  first.heading = bundle ? nameOf(form.bundle) : "Text";
  if (!bundle) return second.stop();
  second.heading = nameOf(bundle);
  open(second, bundle);
}

function open(pane: Pane, bundle: Description): void {
  problem("");
  if (pane.running) pane.stop();
  pane.open(bundle);
  loading.hidden = false;
  loading.removeAttribute("value");
  element("status").textContent = `Loading ${nameOf(bundle)}`;
}

function load(received: number, total: number): void {
  [loading.max, loading.value] = [total, received];
}

function ready(): void {
  if (!panes().every((pane) => pane.isOpen)) return;
  loading.hidden = true;
  if (greeting) begin();
  else if (!isRunning()) element("status").textContent = "The model is ready";
}

/** Let the models that are shown generate from the same text, settings and seed. */
function begin(): void {
  greeting = false;
  problem("");
  stop.disabled = false;
  element("status").textContent = taskOf(form.bundle) === "generate" ? "Generating" : "Filling in";
  const task = form.task();
  panes().forEach((pane) => pane.begin(task));
}

function finished(): void {
  facts();
  if (isRunning()) return;
  stop.disabled = true;
  // Not announced while it is generated: a screen reader could not keep up.
  element("status").textContent = panes().map((pane) => pane.summary).filter(Boolean).join(" ");
}

/** Show the chosen bundle's size, quality and speed. */
function facts(): void {
  const { parameters, metrics, files, verification, precision } = form.bundle;
  const generates = taskOf(form.bundle) === "generate";
  const bytes = files[generates ? "generator.onnx" : "filler.onnx"]!.bytes;
  const bits = metrics[generates ? "bits_per_byte" : "pseudo_bits_per_byte"];
  const parts = [
    `${parameters.toLocaleString("en")} parameters`,
    `${(bytes / 1e6).toFixed(1)} MB to load`,
    typeof bits === "number" ? `${bits.toFixed(3)} ${generates ? "" : "pseudo-"}bits per byte on unseen text` : "",
    verification.verified ? "verified against PyTorch" : "",
    precision !== "fp32" ? "same seed, same text on every machine" : "",
    first.rate ? `${rounded(first.rate)} tokens/s in this browser` : "",
  ];
  element("facts").textContent = `${parts.filter(Boolean).join(" · ")}.`;
}

/** Those on the page. */
function panes(): Pane[] {
  return form.other ? [first, second] : [first];
}

function isRunning(): boolean {
  return panes().some((pane) => pane.running);
}

function nameOf({ variant, precision }: Description): string {
  return `${variant}, ${precision}`;
}

function problem(message: string): void {
  element("problem").textContent = message;
  loading.hidden ||= message !== "";
}
