// A bundle's graph as onnxruntime-web runs it best. Its file was checked against its sha256 before this.
//
// In WebAssembly products of 8-bit numbers are slower than those of fp32, which holds them and their sums exactly: fp32
// products of the same whole numbers give the same results. The weights are turned into fp32 by a node that
// onnxruntime-web does once, when it loads the graph.

import { field, fields, joined, ofBytes, ofInteger, text } from "./protobuf.ts";

// The numbers of fields in onnx.proto.
const MODEL = { graph: 7 };
const GRAPH = { node: 1, initializer: 5 };
const NODE = { input: 1, output: 2, type: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, integer: 3, graph: 6, type: 20 };
const TENSOR = { dims: 1, type: 2, name: 8, raw: 9 };
const FLOAT = 1;
const INT32 = 6;
const KIND_INT = 2;

const EXACT = 2 ** 24; // whole numbers up to here are fp32 numbers
const LARGEST_EIGHT = 128 * 127; // of one product of an 8-bit input with an 8-bit weight

type Scope = Map<string, Uint8Array>; // name → TensorProto
type Made = { nodes: Uint8Array[]; output: string };

/** The model as this page runs it. */
export function forBrowser(model: Uint8Array): Uint8Array<ArrayBuffer> {
  return joined(
    [...fields(model)].map((each) =>
      each.number === MODEL.graph ? ofBytes(MODEL.graph, new Rewriting().outer(each.content)) : each.whole,
    ),
  );
}

class Rewriting {
  private readonly added = new Map<string, Uint8Array>(); // initializers of the outer graph, by name
  private readonly makers = new Map<string, Uint8Array>(); // value of the outer graph → the node that makes it
  private outside = new Set<string>(); // values of the outer graph
  private readonly whole = new Set<string>(); // those of them that exist in fp32 too
  private waiting: Uint8Array[] = []; // nodes that the outer graph needs before the one that is being rewritten
  private nodes = 0;

  outer(graph: Uint8Array): Uint8Array {
    for (const each of fields(graph)) {
      if (each.number === GRAPH.node)
        for (const output of strings(each.content, NODE.output)) this.makers.set(output, each.content);
    }
    const scope = scopeOf(graph, new Map());
    this.outside = new Set([...scope.keys(), ...this.makers.keys()]);
    const parts = [...fields(graph)].flatMap((each) => {
      if (each.number !== GRAPH.node) return [each.whole];
      const nodes = this.node(each.content, scope);
      const before = this.waiting;
      this.waiting = [];
      return [...before, ...nodes].map((node) => ofBytes(GRAPH.node, node));
    });
    return joined([...parts, ...this.added.values()]);
  }

  private inner(graph: Uint8Array, outer: Scope): Uint8Array {
    const scope = scopeOf(graph, outer);
    return joined(
      [...fields(graph)].flatMap((each) => {
        if (each.number !== GRAPH.node) return [each.whole];
        return this.node(each.content, scope).map((node) => ofBytes(GRAPH.node, node));
      }),
    );
  }

  private node(node: Uint8Array, scope: Scope): Uint8Array[] {
    const type = text(field(node, NODE.type)!.content);
    if (type === "MatMulInteger") return this.product(node, scope);
    const parts = [...fields(node)].map((each) => {
      const inner = each.number === NODE.attribute ? field(each.content, ATTRIBUTE.graph) : undefined;
      if (!inner) return each.whole;
      const others = [...fields(each.content)].filter((other) => other.number !== ATTRIBUTE.graph);
      const graph = ofBytes(ATTRIBUTE.graph, this.inner(inner.content, scope));
      return ofBytes(NODE.attribute, joined([...others.map((other) => other.whole), graph]));
    });
    return [joined(parts)];
  }

  /** uint8 inputs with 128 for 0, and int8 weights [inputs, outputs]; in bundles of before, uint8 ones, which stay. */
  private product(node: Uint8Array, scope: Scope): Uint8Array[] {
    const [input, weight, zero, shifted] = strings(node, NODE.input) as [string, string, string, string?];
    const offset = scope.get(zero);
    const inputs = this.mostInputs(weight, scope);
    if (shifted || !offset || raw(offset)[0] !== 128 || inputs * LARGEST_EIGHT >= EXACT) return [node];
    const values = this.inFloat(weight);
    const total = this.operators([
      ["Cast", [input], { to: FLOAT }],
      ["Sub", ["", this.number(128)]],
      ["MatMul", ["", values.output]],
    ]);
    const back = made("Cast", [total.output], strings(node, NODE.output)[0]!, { to: INT32 });
    return [...values.nodes, ...total.nodes, back];
  }

  /** A weight in fp32: of one that the outer graph holds, made there, once. */
  private inFloat(weight: string): Made {
    if (!this.outside.has(weight)) return this.operators([["Cast", [weight], { to: FLOAT }]]);
    const output = `${weight}.whole`;
    if (!this.whole.has(weight)) {
      this.whole.add(weight);
      this.waiting.push(made("Cast", [weight], output, { to: FLOAT }));
    }
    return { nodes: [], output };
  }

  /** The most inputs that a weight may have: of one unpacked from 4 bits, two for each row that was packed. */
  private mostInputs(weight: string, scope: Scope): number {
    const tensor = scope.get(weight);
    if (tensor) return dims(tensor)[0]!;
    const maker = this.makers.get(weight);
    if (!maker) return Infinity;
    const source = strings(maker, NODE.input)[0]!;
    return this.mostInputs(source, scope) * (scope.has(source) ? 2 : 1);
  }

  /** Operators one after another: an input "" is the output of the one before. */
  private operators(list: [type: string, inputs: string[], attributes?: Attributes][]): Made {
    let output = "";
    const nodes = list.map(([type, inputs, attributes]) => {
      const before = output;
      output = `browser.${this.nodes++}`;
      return made(type, inputs.map((input) => input || before), output, attributes);
    });
    return { nodes, output };
  }

  private number(value: number): string {
    const name = `browser.number ${value}`;
    this.added.set(
      name,
      ofBytes(
        GRAPH.initializer,
        joined([
          ofInteger(TENSOR.type, FLOAT),
          ofBytes(TENSOR.name, name),
          ofBytes(TENSOR.raw, new Uint8Array(Float32Array.of(value).buffer)),
        ]),
      ),
    );
    return name;
  }
}

type Attributes = Record<string, number>;

/** The weights that a graph sees: its own, and those around it. */
function scopeOf(graph: Uint8Array, outer: Scope): Scope {
  const scope = new Map(outer);
  for (const each of fields(graph))
    if (each.number === GRAPH.initializer) scope.set(nameOf(each.content), each.content);
  return scope;
}

function made(type: string, inputs: string[], output: string, attributes: Attributes = {}): Uint8Array {
  const given = Object.entries(attributes).map(([name, value]) => {
    const kind = ofInteger(ATTRIBUTE.type, KIND_INT);
    return ofBytes(NODE.attribute, joined([ofBytes(ATTRIBUTE.name, name), ofInteger(ATTRIBUTE.integer, value), kind]));
  });
  const read = inputs.map((input) => ofBytes(NODE.input, input));
  return joined([...read, ofBytes(NODE.output, output), ofBytes(NODE.type, type), ...given]);
}

function strings(message: Uint8Array, number: number): string[] {
  return [...fields(message)].filter((each) => each.number === number).map((each) => text(each.content));
}

function nameOf(tensor: Uint8Array): string {
  return text(field(tensor, TENSOR.name)?.content ?? new Uint8Array());
}

function dims(tensor: Uint8Array): number[] {
  const packed = field(tensor, TENSOR.dims);
  // Written one by one, or all in one field.
  const list = [...fields(tensor)].filter((each) => each.number === TENSOR.dims);
  if (!packed || packed.content.length === 0) return list.map((each) => each.value);
  return unpacked(packed.content);
}

function unpacked(bytes: Uint8Array): number[] {
  const values: number[] = [];
  let value = 0;
  let unit = 1;
  for (const byte of bytes) {
    value += (byte & 127) * unit;
    unit *= 128;
    if (byte < 128) {
      values.push(value);
      [value, unit] = [0, 1];
    }
  }
  return values;
}

/** A tensor's bytes, in memory of their own: they begin where numbers may. */
function raw(tensor: Uint8Array): Uint8Array<ArrayBuffer> {
  const content = field(tensor, TENSOR.raw)?.content;
  if (!content) throw new Error(`the weights ${nameOf(tensor)} are stored in another way than recurlm stores them`);
  return Uint8Array.from(content);
}
