// What is shown of a model at each token: the last layer's hidden state, and its gates when it read the token.

import type { StateSpec } from "./bundle.ts";
import { type Feeds, type Graph, sizeOf, values } from "./graph.ts";

const STATE_CELLS = 24;
const GATE_CELLS = 8;
const GATE = "gate.";

/** Rows of cells that belong together. */
export interface Band {
  name: string;
  signed: boolean; // from −1 to 1; else from 0, closed, to 1, open
  units: number; // of the layer
  cells: number; // of these units that are shown, evenly picked
}

interface Source extends Band {
  tensors: string[]; // of step.onnx, one for each direction
}

export class Activity {
  readonly gates: string[]; // outputs of step.onnx
  private readonly sources: Source[];

  /** @param graph step.onnx */
  constructor(spec: StateSpec, graph: Graph) {
    const states = lastLayer(hidden(Object.keys(spec)));
    const units = states.reduce((sum, name) => sum + sizeOf(spec[name]!), 0);
    const state = { name: "hidden state", signed: true, units, tensors: states.map((name) => `state.${name}`) };
    const widths = graph.outputWidths(GATE);
    this.gates = lastLayer([...widths.keys()]);
    const byName = new Map<string, string[]>();
    for (const output of this.gates) {
      const name = output.slice(output.lastIndexOf(".") + 1);
      byName.set(name, [...(byName.get(name) ?? []), output]);
    }
    const gates = [...byName].map(([name, tensors]) => {
      return { name: `${name} gate`, signed: false, units: tensors.reduce((sum, each) => sum + widths.get(each)!, 0), tensors };
    });
    this.sources = [state, ...gates].map((band) => {
      return { ...band, cells: Math.min(band.units, band.signed ? STATE_CELLS : GATE_CELLS) };
    });
  }

  get bands(): Band[] {
    return this.sources.map(({ name, signed, units, cells }) => ({ name, signed, units, cells }));
  }

  /** The values of each band's cells, of one row of the tensors. */
  column(tensors: Feeds, row = 0): Float32Array[] {
    return this.sources.map(({ tensors: names, units, cells }) => {
      const all = names.flatMap((name) => {
        const size = sizeOf(tensors[name]!.dims.slice(1));
        return [...values(tensors[name]!).subarray(row * size, (row + 1) * size)];
      });
      return Float32Array.from({ length: cells }, (_, at) => all[Math.floor((at * units) / cells)]!);
    });
  }
}

/** The states called h; all where none is. */
function hidden(states: string[]): string[] {
  const called = states.filter((name) => name.endsWith(".h"));
  return called.length > 0 ? called : states;
}

function lastLayer(names: string[]): string[] {
  const layer = (name: string) => Number(/layer(\d+)/.exec(name)?.[1] ?? 0);
  const last = Math.max(...names.map(layer));
  return names.filter((name) => layer(name) === last);
}
