// One model's side of the page: its workers, its text, its strip of states, its speed. The page has two.

import { Engine } from "../engine.ts";
import type { Answer, Role, Task } from "../messages.ts";
import type { Band } from "../runtime/activity.ts";
import { type Description, taskOf } from "../runtime/bundle.ts";
import type { Card } from "./card.ts";
import { element } from "./elements.ts";
import { Strip } from "./strip.ts";
import { TokenText } from "./text.ts";

export interface Events {
  loading(received: number, total: number): void;
  ready(): void;
  finished(): void;
  problem(message: string): void;
}

export class Pane {
  readonly strip: Strip;
  running = false;
  isOpen = false;
  /** What a screen reader is told once the text is complete. */
  summary = "";
  private bundle: Description | null = null;
  private readonly root: string;
  private readonly box: HTMLElement;
  private readonly suffix: string;
  private readonly events: Events;
  private readonly text: TokenText;
  private engine: Engine | null = null; // its workers start with the first bundle
  private bands: Band[] = [];
  private progress = { tokens: 0, timed: 0, milliseconds: 0, chunks: 0 };
  private readonly measured = new Map<string, number>(); // tokens a second, by bundle

  /** @param suffix of the ids of its elements, which are made as index.html has them */
  constructor(root: string, suffix: "" | "-2", card: Card, events: Events) {
    this.box = inserted(suffix, suffix ? "The second text, token by token" : "The text, token by token");
    this.root = root;
    this.suffix = suffix;
    this.events = events;
    this.strip = new Strip(suffix, (column) => !this.text.isPinned && this.text.lookAtToken(column));
    this.text = new TokenText(suffix, (cell, at) => {
      card.show(cell, this.text.isPinned);
      const before = this.text.cells.slice(0, at).reduce((sum, each) => sum + each.ids.length, 0);
      this.strip.look(cell ? before + cell.ids.length - 1 : -1);
    });
  }

  set heading(text: string) {
    element(`heading${this.suffix}`).textContent = text;
  }

  set hidden(hidden: boolean) {
    this.box.hidden = hidden;
  }

  open(bundle: Description): void {
    this.bundle = bundle;
    this.running = this.isOpen = false;
    this.text.clear();
    this.strip.clear((this.bands = []));
    this.show("");
    this.engine ??= new Engine(this.root, (role, answer) => this.answer(role, answer));
    this.engine.open(bundle);
  }

  begin(task: Task): void {
    this.text.clear();
    this.strip.clear(this.bands);
    this.progress = { tokens: 0, timed: 0, milliseconds: 0, chunks: 0 };
    this.running = true;
    this.show(`${this.generates() ? "Generating" : "Filling in"} …`);
    this.engine!.generate(task);
  }

  stop(): void {
    this.engine?.stop();
    if (this.running) this.finish("Stopped");
  }

  /** Tokens a second of the bundle, if it has been measured. */
  get rate(): number | undefined {
    return this.bundle ? this.measured.get(this.bundle.path) : undefined;
  }

  private answer(role: Role, answer: Answer): void {
    switch (answer.kind) {
      case "progress":
        if (role === "generator") this.events.loading(answer.received, answer.total);
        return;
      case "opened":
        if (role === "scorer") return this.strip.clear((this.bands = answer.bands));
        this.isOpen = true;
        return this.events.ready();
      case "prompt":
        if (!this.running) return;
        const filled = new Set(answer.words.flat());
        this.text.add(answer.ids, answer.texts, (at) => (!filled.size ? "given" : filled.has(at) ? "filled" : "around"));
        return this.engine!.score(answer.ids);
      case "chunk":
        if (!this.running) return;
        this.text.add(answer.ids, answer.texts, () => "generated");
        this.engine!.score(answer.ids);
        return this.count(answer.ids.length, answer.milliseconds);
      case "scores":
        this.text.addScores(answer.scores);
        return this.strip.add(answer.scores.map((score) => score.activity));
      case "done":
        if (!this.running) return;
        return this.finish(this.generates() ? "Generated" : "Filled in");
      case "error":
        if (this.running) this.finish("");
        this.events.problem(answer.expected ? answer.message : `This should not have happened: ${answer.message}`);
    }
  }

  private count(tokens: number, milliseconds: number): void {
    const { progress } = this;
    progress.tokens += tokens;
    // The first call reads the prompt, and in its course the browser compiles what runs often.
    if (progress.chunks++ > 2) {
      progress.timed += tokens;
      progress.milliseconds += milliseconds;
    }
    if (progress.timed > 0) this.measured.set(this.bundle!.path, progress.timed / (progress.milliseconds / 1000));
    this.show(this.speed());
  }

  private speed(): string {
    const { tokens, timed } = this.progress;
    const words = `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`;
    return this.rate && timed > 0 ? `${words} · ${rounded(this.rate)} tokens/s` : words;
  }

  private finish(how: string): void {
    this.running = false;
    this.show(how === "" ? "" : this.generates() ? this.speed() : how);
    const words = this.text.cells.map((cell) => cell.text).join("");
    this.summary = how === "" ? "" : `${how}${this.generates() ? `, ${this.speed()}` : ""}. ${words}`;
    this.events.finished();
  }

  private show(speed: string): void {
    element(`speed${this.suffix}`).textContent = speed;
  }

  private generates(): boolean {
    return taskOf(this.bundle!) === "generate";
  }
}

function inserted(suffix: string, label: string): HTMLElement {
  const template = element<HTMLTemplateElement>("pane-template").content.firstElementChild!;
  const pane = template.cloneNode(true) as HTMLElement;
  for (const each of [pane, ...pane.querySelectorAll("*")]) {
    for (const name of ["id", "aria-labelledby"])
      if (each.hasAttribute(name)) each.setAttribute(name, each.getAttribute(name) + suffix);
  }
  pane.querySelector(".tokens")!.ariaLabel = label;
  element("card").before(pane);
  return pane;
}

export function rounded(rate: number): string {
  return Number(rate.toPrecision(3)).toLocaleString("en");
}
