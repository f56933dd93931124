// The hidden state as a strip of cells: a column for each token, which moves to the left as the text grows.

import { element } from "./elements.ts";

const UNITS = 24; // of the layer, evenly picked
const PITCH = 7; // CSS pixels from one cell to the next
const CELL = 6;

type Colour = [number, number, number];

export class Strip {
  private readonly canvas: HTMLCanvasElement;
  private readonly caption: HTMLElement;
  private readonly columns: Float32Array[] = [];
  private active = -1;
  private end = 0; // the column after the last that is shown
  private frame = 0;

  /**
   * @param suffix of the ids of its elements
   * @param pointed called with the column under the pointer, or −1
   */
  constructor(suffix: string, pointed: (column: number) => void) {
    this.canvas = element<HTMLCanvasElement>(`strip${suffix}`);
    this.caption = element(`strip-caption${suffix}`);
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => {
      const place = Math.floor(event.offsetX / PITCH) + this.first();
      pointed(place < this.columns.length ? place : -1);
    });
    this.canvas.addEventListener("pointerleave", () => pointed(-1));
  }

  /** Clear the strip, for a model with so many hidden units. */
  clear(units: number): void {
    this.columns.length = 0;
    this.end = 0;
    this.active = -1;
    this.caption.textContent =
      `Hidden state: ${Math.min(UNITS, units)} of the last layer's ${units.toLocaleString("en")} units, a column for each token; blue below zero, orange above.`;
    this.redraw();
  }

  /** @param states one a token, flattened */
  add(states: Float32Array[]): void {
    for (const state of states) {
      const shown = Math.min(UNITS, state.length);
      this.columns.push(Float32Array.from({ length: shown }, (_, at) => state[Math.floor((at * state.length) / shown)]!));
    }
    this.end = this.columns.length;
    this.redraw();
  }

  /** Frame a column, and move the strip to where it is shown; −1 for none. */
  look(column: number): void {
    this.active = column;
    const shown = column < this.end && column >= this.end - this.width();
    if (column < 0) this.end = this.columns.length;
    else if (!shown) this.end = Math.min(this.columns.length, column + Math.ceil(this.width() / 2));
    this.redraw();
  }

  redraw(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private width(): number {
    return Math.max(1, Math.floor(this.canvas.clientWidth / PITCH));
  }

  private first(): number {
    return Math.max(0, this.end - this.width());
  }

  private draw(): void {
    const { canvas } = this;
    const ratio = devicePixelRatio;
    const height = UNITS * PITCH;
    canvas.style.height = `${height}px`;
    const size = [Math.round(canvas.clientWidth * ratio), Math.round(height * ratio)] as const;
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d")!;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, height);
    const style = getComputedStyle(document.documentElement);
    const [low, zero, high, ink] = ["--low", "--zero", "--high", "--ink"].map((name) => colour(style.getPropertyValue(name)));
    const first = this.first();
    for (let column = 0; column < this.width(); column++) {
      const state = this.columns[first + column];
      for (let unit = 0; unit < UNITS; unit++) {
        const value = Math.max(-1, Math.min(1, state?.[unit] ?? 0));
        const mixed = blend(zero!, value < 0 ? low! : high!, Math.sqrt(Math.abs(value)));
        context.fillStyle = `rgb(${mixed.join(" ")})`;
        context.fillRect(column * PITCH, unit * PITCH, CELL, CELL);
      }
      if (state && first + column === this.active) {
        context.strokeStyle = `rgb(${ink!.join(" ")})`;
        context.lineWidth = 1.5;
        context.strokeRect(column * PITCH - 0.5, 0.5, CELL + 1, height - 1.5);
      }
    }
  }
}

function colour(hex: string): Colour {
  const value = parseInt(hex.trim().slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

function blend(from: Colour, to: Colour, fraction: number): number[] {
  return from.map((part, at) => Math.round(part + (to[at]! - part) * fraction));
}
