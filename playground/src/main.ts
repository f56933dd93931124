// The page: sends the form to the workers, and shows their answers.

import "@fontsource-variable/source-serif-4";
import "@fontsource-variable/source-serif-4/wght-italic.css";
import "./style.css";

import { Engine } from "./engine.ts";
import type { Answer, Role } from "./messages.ts";
import { Card } from "./page/card.ts";
import { element } from "./page/elements.ts";
import { Form } from "./page/form.ts";
import { startScheme } from "./page/scheme.ts";
import { Strip } from "./page/strip.ts";
import { TokenText } from "./page/text.ts";
import { type Description, type Manifest, taskOf } from "./runtime/bundle.ts";

const root = new URL(".", location.href).href;
const loading = element<HTMLProgressElement>("loading");
const stop = element<HTMLButtonElement>("stop");

const strip = new Strip((column) => !text.isPinned && text.lookAtToken(column));
const card = new Card();
const text = new TokenText((cell, at) => {
  card.show(cell, text.isPinned);
  const before = text.cells.slice(0, at).reduce((sum, each) => sum + each.ids.length, 0);
  strip.look(cell ? before + cell.ids.length - 1 : -1);
});
const engine = new Engine(root, onAnswer);
const measured = new Map<string, number>(); // tokens a second, by bundle

let form: Form;
let units = 0;
let running = false;
let greeting = true; // the first model that is loaded generates at once, with what the form or the address holds
let progress = { tokens: 0, timed: 0, milliseconds: 0, chunks: 0 };

startScheme(() => strip.redraw());
element<HTMLDetailsElement>("more").open = matchMedia("(min-width: 60rem)").matches;
stop.addEventListener("click", () => {
  engine.stop();
  finished("Stopped");
});
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
    form = new Form(bundles, choose);
    choose(form.bundle);
  } catch (error) {
    problem(error instanceof Error ? error.message : String(error));
  }
}

function choose(bundle: Description): void {
  problem("");
  if (running) finished("Stopped");
  text.clear();
  strip.clear((units = 0));
  element("speed").textContent = "";
  facts();
  loading.hidden = false;
  loading.removeAttribute("value");
  element("status").textContent = `Loading ${bundle.variant} in ${bundle.precision}`;
  engine.open(bundle);
}

function begin(): void {
  greeting = false;
  problem("");
  text.clear();
  strip.clear(units);
  progress = { tokens: 0, timed: 0, milliseconds: 0, chunks: 0 };
  running = true;
  stop.disabled = false;
  const doing = generates() ? "Generating" : "Filling in";
  element("speed").textContent = `${doing} …`;
  element("status").textContent = doing;
  engine.generate(form.task());
}

function onAnswer(role: Role, answer: Answer): void {
  switch (answer.kind) {
    case "progress":
      if (role === "generator") [loading.max, loading.value] = [answer.total, answer.received];
      return;
    case "opened":
      if (role === "scorer") return;
      loading.hidden = true;
      if (units === 0) strip.clear((units = answer.units));
      if (greeting) begin();
      else if (!running) element("status").textContent = "The model is ready";
      return;
    case "prompt":
      if (!running) return;
      const filled = new Set(answer.words.flat());
      text.add(answer.ids, answer.texts, (at) => (!filled.size ? "given" : filled.has(at) ? "filled" : "around"));
      return engine.score(answer.ids);
    case "chunk":
      if (!running) return;
      text.add(answer.ids, answer.texts, () => "generated");
      engine.score(answer.ids);
      return count(answer.ids.length, answer.milliseconds);
    case "scores":
      text.addScores(answer.scores);
      return strip.add(answer.scores.map((score) => score.state));
    case "done":
      return finished(generates() ? "Generated" : "Filled in");
    case "error":
      if (role === "generator") loading.hidden = true;
      if (running) finished("");
      problem(answer.expected ? answer.message : `This should not have happened: ${answer.message}`);
  }
}

function count(tokens: number, milliseconds: number): void {
  progress.tokens += tokens;
  // The first call reads the prompt, and in its course the browser compiles what runs often.
  if (progress.chunks++ > 2) {
    progress.timed += tokens;
    progress.milliseconds += milliseconds;
  }
  if (progress.timed > 0) measured.set(form.bundle.path, progress.timed / (progress.milliseconds / 1000));
  element("speed").textContent = speed();
}

function speed(): string {
  const rate = measured.get(form.bundle.path);
  const tokens = `${progress.tokens.toLocaleString("en")} ${progress.tokens === 1 ? "token" : "tokens"}`;
  return rate && progress.timed > 0 ? `${tokens} · ${rounded(rate)} tokens/s` : tokens;
}

function finished(how: string): void {
  running = false;
  stop.disabled = true;
  element("speed").textContent = how === "" ? "" : generates() ? speed() : how;
  // Not announced while it is generated: a screen reader could not keep up.
  const words = text.cells.map((cell) => cell.text).join("");
  element("status").textContent = how === "" ? "" : `${how}${generates() ? `, ${speed()}` : ""}. ${words}`;
  facts();
}

/** Show the chosen bundle's size, quality and speed. */
function facts(): void {
  const { path, parameters, metrics, files, verification, portable } = form.bundle;
  const bytes = files[generates() ? "generator.onnx" : "filler.onnx"]!.bytes;
  const bits = metrics[generates() ? "bits_per_byte" : "pseudo_bits_per_byte"];
  const rate = measured.get(path);
  const parts = [
    `${parameters.toLocaleString("en")} parameters`,
    `${(bytes / 1e6).toFixed(1)} MB to load`,
    typeof bits === "number" ? `${bits.toFixed(3)} ${generates() ? "" : "pseudo-"}bits per byte on unseen text` : "",
    verification.verified ? "verified against PyTorch" : "",
    portable ? "same seed, same text on every machine" : "",
    rate ? `${rounded(rate)} tokens/s in this browser` : "",
  ];
  element("facts").textContent = `${parts.filter(Boolean).join(" · ")}.`;
}

function generates(): boolean {
  return taskOf(form.bundle) === "generate";
}

function rounded(rate: number): string {
  return Number(rate.toPrecision(3)).toLocaleString("en");
}

function problem(message: string): void {
  element("problem").textContent = message;
  loading.hidden ||= message !== "";
}
