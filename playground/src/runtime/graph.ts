// One graph of a bundle as an onnxruntime-web session.

import * as ort from "onnxruntime-web/wasm";

import type { StateSpec } from "./bundle.ts";
import { forBrowser } from "./onnx.ts";

export type Tensor = ort.Tensor;
export type Feeds = Record<string, Tensor>;

export class Graph {
  private readonly session: ort.InferenceSession;

  private constructor(session: ort.InferenceSession) {
    this.session = session;
  }

  /** @param model the bytes of an .onnx file */
  static async of(model: Uint8Array): Promise<Graph> {
    const options: ort.InferenceSession.SessionOptions = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    return new Graph(await ort.InferenceSession.create(forBrowser(model), options));
  }

  async run(outputs: string[], feeds: Feeds): Promise<Record<string, Tensor>> {
    return await this.session.run(feeds, outputs);
  }

  /** Name → units of each output whose name begins so. */
  outputWidths(prefix: string): Map<string, number> {
    const found = this.session.outputMetadata.filter(({ name }) => name.startsWith(prefix));
    return new Map(found.map((each) => [each.name, each.isTensor ? Number(each.shape[1]) : 0]));
  }

  async release(): Promise<void> {
    await this.session.release();
  }
}

export function integers(values: ArrayLike<number>, shape: number[]): Tensor {
  return new ort.Tensor("int64", BigInt64Array.from(Array.from(values, BigInt)), shape);
}

export function floats(values: ArrayLike<number>, shape: number[]): Tensor {
  return new ort.Tensor("float32", Float32Array.from(values), shape);
}

export function booleans(count: number, shape: number[]): Tensor {
  return new ort.Tensor("bool", new Uint8Array(count), shape);
}

/** The values of an int64 tensor of token ids or counts. */
export function numbers(tensor: Tensor): number[] {
  return Array.from(tensor.data as BigInt64Array, Number);
}

/** The number of values in a tensor of this shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, axis) => product * axis, 1);
}

/** The float32 values of a tensor. */
export function values(tensor: Tensor): Float32Array {
  return tensor.data as Float32Array;
}

/** The state before a sequence's first token: zeros of any rank. */
export function zeroState(spec: StateSpec): Feeds {
  return Object.fromEntries(
    Object.entries(spec).map(([name, shape]) => {
      return [`state.${name}`, floats(new Float32Array(sizeOf(shape)), [1, ...shape])];
    }),
  );
}
