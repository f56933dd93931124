// What a model does at each token, as a strip of cells: a column a token, which moves to the left as the text grows.

import type { Band } from "../runtime/activity.ts";
import { element } from "./elements.ts";

const PITCH = 7; // CSS pixels from one cell to the next
const CELL = 6;
const LABEL = 15; // above each band

type Colour = [number, number, number];

export class Strip {
  private readonly canvas: HTMLCanvasElement;
  private readonly caption: HTMLElement;
  private bands: Band[] = [];
  private readonly columns: Float32Array[][] = []; // of each token, of each band
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

  /** Clear the strip, for a model with such states and gates. */
  clear(bands: Band[]): void {
    this.bands = bands;
    this.columns.length = 0;
    this.end = 0;
    this.active = -1;
    this.caption.textContent = described(bands);
    this.redraw();
  }

  /** @param columns one a token: the values of each band's cells */
  add(columns: Float32Array[][]): void {
    this.columns.push(...columns);
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
    const { canvas, bands } = this;
    const ratio = devicePixelRatio;
    const height = bands.length === 0 ? canvas.clientHeight : bands.reduce((sum, { cells }) => sum + LABEL + cells * PITCH, 0);
    canvas.style.height = `${height}px`;
    const size = [Math.round(canvas.clientWidth * ratio), Math.round(height * ratio)] as const;
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d")!;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, height);
    const style = getComputedStyle(document.documentElement);
    const colours = ["--low", "--zero", "--high", "--open"].map((name) => colour(style.getPropertyValue(name)));
    context.font = `11px ${style.getPropertyValue("--sans")}`;
    let top = 0;
    bands.forEach((band, at) => {
      context.fillStyle = style.getPropertyValue("--soft");
      context.fillText(band.name, 0, top + LABEL - 4);
      this.drawBand(context, band, at, (top += LABEL), colours);
      top += band.cells * PITCH;
    });
    const place = this.active - this.first();
    if (this.active >= 0 && place >= 0 && this.active < this.columns.length) {
      context.strokeStyle = style.getPropertyValue("--ink");
      context.lineWidth = 1.5;
      context.strokeRect(place * PITCH - 0.5, LABEL - 1, CELL + 1, height - LABEL + 0.5);
    }
  }

  private drawBand(context: CanvasRenderingContext2D, band: Band, at: number, top: number, colours: Colour[]): void {
    const [low, zero, high, open] = colours as [Colour, Colour, Colour, Colour];
    const first = this.first();
    for (let column = 0; column < this.width(); column++) {
      const values = this.columns[first + column]?.[at];
      for (let unit = 0; unit < band.cells; unit++) {
        const value = Math.max(-1, Math.min(1, values?.[unit] ?? 0));
        const to = !band.signed ? open : value < 0 ? low : high;
        const mixed = blend(zero, to, band.signed ? Math.sqrt(Math.abs(value)) : Math.abs(value));
        context.fillStyle = `rgb(${mixed.join(" ")})`;
        context.fillRect(column * PITCH, top + unit * PITCH, CELL, CELL);
      }
    }
  }
}

function described(bands: Band[]): string {
  const [state, ...gates] = bands;
  if (!state) return "";
  const shown = Math.max(0, ...gates.map(({ cells }) => cells));
  const units = `${state.cells} of ${state.units.toLocaleString("en")} units of the hidden state`;
  const gated = shown ? `; ${shown} units of each gate, the greener the more open` : "";
  return `The last layer, a column for each token: ${units}, blue below zero, orange above${gated}.`;
}

function colour(hex: string): Colour {
  const value = parseInt(hex.trim().slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

function blend(from: Colour, to: Colour, fraction: number): number[] {
  return from.map((part, at) => Math.round(part + (to[at]! - part) * fraction));
}
