// The page's side of the two workers: only answers to the latest request count.

import type { Answer, Request, Role, Task } from "./messages.ts";
import type { Description } from "./runtime/bundle.ts";

export type Listener = (role: Role, answer: Answer) => void;

export class Engine {
  private readonly workers: Record<Role, Worker>;
  private readonly root: string;
  private run = 0;
  private opening = 0; // the run in which the bundle was asked for

  /** @param root the page's address, with a slash at its end */
  constructor(root: string, listener: Listener) {
    this.root = root;
    const worker = (role: Role) => {
      const made = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: role });
      made.onmessage = ({ data }: MessageEvent<Answer>) => this.counts(data) && listener(role, data);
      made.onerror = (event) => {
        listener(role, { kind: "error", run: this.run, message: event.message || `the ${role} could not start`, expected: false });
      };
      return made;
    };
    this.workers = { generator: worker("generator"), scorer: worker("scorer") };
  }

  open(description: Description): void {
    this.opening = ++this.run;
    for (const role of ["generator", "scorer"] as const)
      this.send(role, { kind: "open", role, root: this.root, description, run: this.run });
  }

  generate(task: Task): void {
    this.run++;
    this.send("scorer", { kind: "stop", run: this.run });
    this.send("generator", { kind: "generate", run: this.run, ...task });
  }

  /** Score the text's next tokens. */
  score(ids: number[]): void {
    this.send("scorer", { kind: "score", ids, run: this.run });
  }

  /** Stop generating; tokens that were generated are still scored. */
  stop(): void {
    this.send("generator", { kind: "stop", run: -this.run });
  }

  private counts({ run }: Answer): boolean {
    return run === this.run || run === this.opening;
  }

  private send(role: Role, request: Request): void {
    this.workers[role].postMessage(request);
  }
}
