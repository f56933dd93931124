// The page: what is chosen goes to the workers, what they answer is shown.

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
import type { Description, Manifest } from "./runtime/bundle.ts";

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
const engine = new Engine(root, heard);
const measured = new Map<string, number>(); // tokens a second, by bundle

let form: Form;
let units = 0;
let writing = false;
let drawn = { tokens: 0, timed: 0, milliseconds: 0, chunks: 0 };

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
  if (writing) finished("Stopped");
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
  problem("");
  text.clear();
  strip.clear(units);
  drawn = { tokens: 0, timed: 0, milliseconds: 0, chunks: 0 };
  writing = true;
  stop.disabled = false;
  element("speed").textContent = form.bundle.causal ? "Writing …" : "Filling in …";
  element("status").textContent = form.bundle.causal ? "Writing" : "Filling in";
  engine.write(form.task());
}

function heard(role: Role, answer: Answer): void {
  switch (answer.kind) {
    case "progress":
      if (role === "writer") [loading.max, loading.value] = [answer.total, answer.received];
      return;
    case "opened":
      if (role === "reader") return;
      loading.hidden = true;
      if (units === 0) strip.clear((units = answer.units));
      if (!writing) element("status").textContent = "The model is ready";
      return;
    case "prompt":
      if (!writing) return;
      const filled = new Set(answer.blanks.flat());
      text.add(answer.ids, answer.texts, (at) => (!filled.size ? "given" : filled.has(at) ? "filled" : "around"));
      return engine.read(answer.ids);
    case "chunk":
      if (!writing) return;
      text.add(answer.ids, answer.texts, () => "written");
      engine.read(answer.ids);
      return count(answer.ids.length, answer.milliseconds);
    case "marks":
      text.mark(answer.marks);
      return strip.add(answer.marks.map((mark) => mark.state));
    case "done":
      return finished(form.bundle.causal ? "Written" : "Filled in");
    case "error":
      if (role === "writer") loading.hidden = true;
      if (writing) finished("");
      problem(answer.expected ? answer.message : `This should not have happened: ${answer.message}`);
  }
}

function count(tokens: number, milliseconds: number): void {
  drawn.tokens += tokens;
  // The first call reads the prompt, and in its course the browser compiles what runs often.
  if (drawn.chunks++ > 2) {
    drawn.timed += tokens;
    drawn.milliseconds += milliseconds;
  }
  if (drawn.timed > 0) measured.set(form.bundle.path, drawn.timed / (drawn.milliseconds / 1000));
  element("speed").textContent = speed();
}

function speed(): string {
  const rate = measured.get(form.bundle.path);
  const tokens = `${drawn.tokens.toLocaleString("en")} ${drawn.tokens === 1 ? "token" : "tokens"}`;
  return rate && drawn.timed > 0 ? `${tokens} · ${rounded(rate)} tokens/s` : tokens;
}

function finished(how: string): void {
  writing = false;
  stop.disabled = true;
  const { causal } = form.bundle;
  element("speed").textContent = how === "" ? "" : causal ? speed() : how;
  // Not told while it is written: a screen reader could not keep up.
  const words = text.cells.map((cell) => cell.text).join("");
  element("status").textContent = how === "" ? "" : `${how}${causal ? `, ${speed()}` : ""}. ${words}`;
  facts();
}

/** What is known of the chosen bundle, and how fast each has run here. */
function facts(): void {
  const { path, parameters, metrics, files, causal, proof, portable } = form.bundle;
  const bytes = files[causal ? "generator.onnx" : "filler.onnx"]!.bytes;
  const bits = metrics[causal ? "bits_per_byte" : "pseudo_bits_per_byte"];
  const rate = measured.get(path);
  const parts = [
    `${parameters.toLocaleString("en")} parameters`,
    `${(bytes / 1e6).toFixed(1)} MB to load`,
    typeof bits === "number" ? `${bits.toFixed(3)} ${causal ? "" : "pseudo-"}bits a byte on unseen text` : "",
    proof.passed ? "proven against PyTorch" : "",
    portable ? "a seed's text is the same on every machine" : "",
    rate ? `${rounded(rate)} tokens/s in this browser` : "",
  ];
  element("facts").textContent = `${parts.filter(Boolean).join(" · ")}.`;
}

function rounded(rate: number): string {
  return Number(rate.toPrecision(3)).toLocaleString("en");
}

function problem(message: string): void {
  element("problem").textContent = message;
  loading.hidden ||= message !== "";
}
