// The form: bundle, text, settings. The page's address may hold all of them, so that a link shows a text.

import type { Task } from "../messages.ts";
import { type Description, taskOf } from "../runtime/bundle.ts";
import { element } from "./elements.ts";

interface Setting {
  name: "temperature" | "topK" | "topP" | "minP" | "repetitionPenalty" | "count" | "seed";
  label: string;
  hint: string;
  step: string;
  generate: string; // the default for text generation
  fill: string | null; // the default for mask filling; null where it has no such setting
}

const SETTINGS: Setting[] = [
  { name: "temperature", label: "Temperature", hint: "0 is greedy", step: "0.05", generate: "0.8", fill: "0" },
  { name: "topK", label: "Top-k", hint: "0 keeps all", step: "1", generate: "40", fill: "0" },
  { name: "topP", label: "Top-p", hint: "1 keeps all", step: "0.01", generate: "0.95", fill: "1" },
  { name: "minP", label: "Min-p", hint: "0 keeps all", step: "0.01", generate: "0", fill: null },
  { name: "repetitionPenalty", label: "Repetition penalty", hint: "1 is none", step: "0.05", generate: "1", fill: null },
  { name: "count", label: "Tokens", hint: "at most", step: "10", generate: "200", fill: null },
  { name: "seed", label: "Seed", hint: "same seed, same text", step: "1", generate: "1", fill: "1" },
];
const PRECISION = "int8"; // where the address names none
const PROMPT = "KING.\n";
const MASKED = "To be or ___ to be, that is the question:";

export class Form {
  private readonly bundles: Description[];
  private readonly typed = { generate: PROMPT, fill: MASKED };
  private readonly address = new URLSearchParams(location.search);
  private mode: "generate" | "fill";

  constructor(
    bundles: Description[],
    chosen: (bundle: Description) => void,
    chosenOther: (bundle: Description | null) => void,
  ) {
    this.bundles = bundles;
    const start = this.first();
    this.radios("variant", unique(bundles.map((each) => each.variant)), start.variant);
    this.radios("precision", unique(bundles.map((each) => each.precision)), start.precision);
    for (const group of ["variant", "precision"]) {
      element(group).addEventListener("change", () => {
        const before = this.other;
        chosen(this.shown());
        if (this.other !== before) chosenOther(this.other);
      });
    }
    element("beside").addEventListener("change", () => chosenOther(this.other));
    element("settings").append(...SETTINGS.map(field));
    this.mode = taskOf(start);
    this.typed[this.mode] = this.address.get("text") ?? this.typed[this.mode];
    this.shown();
    for (const { name } of SETTINGS) input(name).value = this.address.get(name) ?? input(name).value;
  }

  get bundle(): Description {
    const variant = checked("variant");
    const of = this.bundles.filter((each) => each.variant === variant);
    return of.find((each) => each.precision === checked("precision")) ?? of[0]!;
  }

  /** The bundle beside it, which does the same; null for none. */
  get other(): Description | null {
    const { value } = element<HTMLSelectElement>("beside");
    return this.bundles.find((each) => `${each.variant}/${each.precision}` === value) ?? null;
  }

  /** The form as a task; the page's address follows it. */
  task(): Task {
    const { variant, precision } = this.bundle;
    const text = element<HTMLTextAreaElement>("text").value;
    const shown = SETTINGS.filter((setting) => setting[this.mode] !== null);
    const settings = shown.map(({ name }) => [name, input(name).value] as [string, string]);
    const beside = element<HTMLSelectElement>("beside").value;
    const models = [["variant", variant], ["precision", precision], ...(beside ? [["beside", beside]] : [])];
    const address = new URLSearchParams([...models, ["text", text], ...settings]);
    history.replaceState(null, "", `?${address}`);
    // An empty field is no number, and not 0.
    const value = (name: Setting["name"]) => (input(name).value.trim() === "" ? NaN : Number(input(name).value));
    const fixed = this.mode === "fill" ? { minP: 0, repetitionPenalty: 1 } : null;
    const sampling = {
      temperature: value("temperature"),
      topK: value("topK"),
      topP: value("topP"),
      minP: fixed?.minP ?? value("minP"),
      repetitionPenalty: fixed?.repetitionPenalty ?? value("repetitionPenalty"),
    };
    return { text, count: value("count"), seed: input("seed").value, sampling };
  }

  /** Show the precisions and settings of the chosen bundle. */
  private shown(): Description {
    const { bundle } = this;
    for (const radio of element("precision").querySelectorAll("input")) {
      radio.disabled = !this.bundles.some((each) => each.variant === bundle.variant && each.precision === radio.value);
      radio.checked = radio.value === bundle.precision;
    }
    const mode = taskOf(bundle);
    const text = element<HTMLTextAreaElement>("text");
    if (mode !== this.mode) this.typed[this.mode] = text.value;
    if (mode !== this.mode || text.value === "") {
      text.value = this.typed[mode];
      for (const setting of SETTINGS) input(setting.name).value = setting[mode] ?? setting.generate;
    }
    this.mode = mode;
    this.offerOthers(bundle);
    for (const setting of SETTINGS) input(setting.name).closest("label")!.hidden = setting[mode] === null;
    element("text-label").textContent = mode === "generate" ? "Prompt" : "Text with masks";
    element("text-hint").textContent = mode === "generate"
      ? "The model continues this text; an empty prompt begins a new one."
      : "Write ___ where a word is missing. This model reads both sides.";
    element("go").textContent = mode === "generate" ? "Generate" : "Fill in";
    return bundle;
  }

  /** The bundles that may stand beside one: those that do the same with the same text. */
  private offerOthers(bundle: Description): void {
    const select = element<HTMLSelectElement>("beside");
    const chosen = select.options.length ? select.value : this.address.get("beside");
    const others = this.bundles.filter((each) => taskOf(each) === taskOf(bundle));
    const options = others.map(({ variant, precision }) => new Option(`${variant}, ${precision}`, `${variant}/${precision}`));
    select.replaceChildren(new Option("no other", ""), ...options);
    select.value = options.some((each) => each.value === chosen) ? chosen! : "";
  }

  /** The bundle of the address; without one the best variant, and of each variant int8: a quarter of fp32's download. */
  private first(): Description {
    const [variant, precision] = [this.address.get("variant"), this.address.get("precision")];
    const of = (name: string | null) => this.bundles.filter((each) => each.variant === name);
    const among = of(variant).length ? of(variant) : of(this.bundles[0]!.variant);
    return among.find((each) => each.precision === precision) ?? among.find((each) => each.precision === PRECISION) ?? among[0]!;
  }

  private radios(name: string, values: string[], chosen: string): void {
    for (const value of values) {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name, value });
      radio.checked = value === chosen;
      label.append(radio, Object.assign(document.createElement("span"), { textContent: value }));
      element(name).append(label);
    }
  }
}

function field({ name, label, hint, step, generate }: Setting): HTMLElement {
  const box = document.createElement("label");
  box.className = "field";
  const words = Object.assign(document.createElement("span"), { textContent: label });
  const small = Object.assign(document.createElement("small"), { textContent: hint });
  const given = { id: name, name, step, min: "0", value: generate, type: name === "seed" ? "text" : "number" };
  const typed = Object.assign(document.createElement("input"), given);
  typed.inputMode = name === "topK" || name === "count" || name === "seed" ? "numeric" : "decimal";
  typed.autocomplete = "off";
  box.append(words, typed, small);
  return box;
}

function input(name: Setting["name"]): HTMLInputElement {
  return element<HTMLInputElement>(name);
}

function checked(name: string): string {
  return element(name).querySelector<HTMLInputElement>("input:checked")!.value;
}

function unique(values: string[]): string[] {
  return [...new Set(values)];
}
