// The page's side of the two workers: what is asked last is what counts.

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
    this.workers = { writer: worker("writer"), reader: worker("reader") };
  }

  open(description: Description): void {
    this.opening = ++this.run;
    for (const role of ["writer", "reader"] as const)
      this.send(role, { kind: "open", role, root: this.root, description, run: this.run });
  }

  write(task: Task): void {
    this.run++;
    this.send("reader", { kind: "stop", run: this.run });
    this.send("writer", { kind: "write", run: this.run, ...task });
  }

  /** Tokens that were written go to the reader. */
  read(ids: number[]): void {
    this.send("reader", { kind: "read", ids, run: this.run });
  }

  /** No more is written; what was written is still read. */
  stop(): void {
    this.send("writer", { kind: "stop", run: -this.run });
  }

  private counts({ run }: Answer): boolean {
    return run === this.run || run === this.opening;
  }

  private send(role: Role, request: Request): void {
    this.workers[role].postMessage(request);
  }
}
