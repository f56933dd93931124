// A bundle's graph as onnxruntime-web runs it best. Its file was checked against its sha256 before this.
//
// Optional inputs      onnxruntime-web takes values only for inputs that have no default. A default is an initializer of
//                      the same name: without it the input becomes one that must be given.
// Products of 8 and    In WebAssembly 8-bit products are slower than those of fp32, and the 4-bit operator does not round
// 4 bits               its inputs, which gives other tokens. The weights are whole numbers, and so are the rounded
//                      inputs: fp32 holds their products and sums exactly, so fp32 products give the same results.

import { field, fields, joined, ofBytes, ofInteger, text } from "./protobuf.ts";

// The numbers of fields in onnx.proto.
const MODEL = { graph: 7 };
const GRAPH = { node: 1, initializer: 5, input: 11 };
const NODE = { input: 1, output: 2, type: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, integer: 3, graph: 6, integers: 8, type: 20 };
const TENSOR = { dims: 1, type: 2, name: 8, raw: 9 };
const VALUE = { name: 1 };
const FLOAT = 1;
const INT32 = 6;
const INT64 = 7;
const KIND_INT = 2;
const KIND_INTS = 7;

const EXACT = 2 ** 24; // whole numbers up to here are fp32 numbers
const LARGEST_EIGHT = 128 * 127; // of one product of an 8-bit input with an 8-bit weight
const TINY = 2 ** -126; // in place of the scale of a block of zeros

type Scope = Map<string, Uint8Array>; // name → TensorProto

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
  private readonly replaced = new Set<string>(); // weights that nothing reads any more
  private nodes = 0;

  outer(graph: Uint8Array): Uint8Array {
    const inputs = new Set<string>();
    for (const each of fields(graph))
      if (each.number === GRAPH.input) inputs.add(text(field(each.content, VALUE.name)!.content));
    const body = this.graph(graph, new Map());
    const kept = [...fields(body)].filter((each) => {
      if (each.number !== GRAPH.initializer) return true;
      const name = nameOf(each.content);
      return !inputs.has(name) && !this.replaced.has(name);
    });
    return joined([...kept.map((each) => each.whole), ...this.added.values()]);
  }

  private graph(graph: Uint8Array, outer: Scope): Uint8Array {
    const scope = new Map(outer);
    for (const each of fields(graph))
      if (each.number === GRAPH.initializer) scope.set(nameOf(each.content), each.content);
    const parts: Uint8Array[] = [];
    for (const each of fields(graph)) {
      if (each.number === GRAPH.node) parts.push(...this.node(each.content, scope).map((node) => ofBytes(GRAPH.node, node)));
      else parts.push(each.whole);
    }
    return joined(parts);
  }

  private node(node: Uint8Array, scope: Scope): Uint8Array[] {
    const type = text(field(node, NODE.type)!.content);
    if (type === "MatMulInteger") return this.eightBits(node, scope);
    if (type === "MatMulNBits") return this.fourBits(node, scope);
    const parts = [...fields(node)].map((each) => {
      const inner = each.number === NODE.attribute ? field(each.content, ATTRIBUTE.graph) : undefined;
      if (!inner) return each.whole;
      const others = [...fields(each.content)].filter((other) => other.number !== ATTRIBUTE.graph);
      const graph = ofBytes(ATTRIBUTE.graph, this.graph(inner.content, scope));
      return ofBytes(NODE.attribute, joined([...others.map((other) => other.whole), graph]));
    });
    return [joined(parts)];
  }

  /** uint8 inputs whose zero stands at 128, int8 weights [inputs, outputs]. */
  private eightBits(node: Uint8Array, scope: Scope): Uint8Array[] {
    const [input, weight, zero] = strings(node, NODE.input) as [string, string, string];
    const tensor = scope.get(weight);
    const inputs = tensor ? dims(tensor)[0]! : Infinity;
    if (!tensor || !scope.has(zero) || raw(scope.get(zero)!)[0] !== 128 || inputs * LARGEST_EIGHT >= EXACT) return [node];
    const values = this.tensor(`${weight}.whole`, dims(tensor), () => Float32Array.from(new Int8Array(raw(tensor).buffer)));
    this.replaced.add(weight);
    const total = this.operators([
      ["Cast", [input], { to: FLOAT }],
      ["Sub", ["", this.number(128)]],
      ["MatMul", ["", values]],
    ]);
    const back = made("Cast", [total.output], strings(node, NODE.output)[0]!, { to: INT32 });
    return [...total.nodes, back];
  }

  /** Weights of 4 bits, two a byte, [outputs, blocks, half a block], with a scale for each block and output. */
  private fourBits(node: Uint8Array, scope: Scope): Uint8Array[] {
    const [input, weight, scaleName] = strings(node, NODE.input) as [string, string, string];
    const given = (name: string) => attribute(node, name);
    const [inputs, outputs, block] = [given("K"), given("N"), given("block_size")];
    const [tensor, scaleTensor] = [scope.get(weight), scope.get(scaleName)];
    if (!tensor || !scaleTensor || given("bits") !== 4 || given("accuracy_level") !== 4) return [node];
    const blocks = Math.ceil(inputs / block);
    const values = this.tensor(`${weight}.whole`, [blocks, block, outputs], () => {
      const [packed, whole] = [raw(tensor), new Float32Array(blocks * block * outputs)];
      for (let row = 0, at = 0; row < outputs; row++)
        for (let place = 0; place < blocks * block; place += 2, at++) {
          whole[place * outputs + row] = (packed[at]! & 15) - 8;
          whole[(place + 1) * outputs + row] = (packed[at]! >> 4) - 8;
        }
      return whole;
    });
    const scales = this.tensor(`${weight}.scales`, [blocks, 1, outputs], () => {
      const [packed, turned] = [new Float32Array(raw(scaleTensor).buffer), new Float32Array(blocks * outputs)];
      packed.forEach((scale, at) => (turned[(at % blocks) * outputs + Math.floor(at / blocks)] = scale));
      return turned;
    });
    this.replaced.add(weight);
    // [blocks, batch, a block's inputs], each over its block's scale and rounded.
    const padded = this.operators([["Pad", [input, this.integers([0, 0, 0, blocks * block - inputs])]]]);
    const cut = this.operators([
      ["Reshape", [padded.output, this.integers([-1, blocks, block])]],
      ["Transpose", [""], { perm: [1, 0, 2] }],
    ]);
    const scale = this.operators([
      ["Abs", [cut.output]],
      ["ReduceMax", ["", this.integers([2])]],
      ["Div", ["", this.number(127)]],
      ["Max", ["", this.number(TINY)]],
    ]);
    const inverse = this.operators([["Reciprocal", [scale.output]]]);
    const rounded = this.operators([
      ["Mul", [cut.output, inverse.output]],
      ["Round", [""]],
      ["MatMul", ["", values]],
      ["Mul", ["", scale.output]],
      ["Mul", ["", scales]],
    ]);
    const sum = made("ReduceSum", [rounded.output, this.integers([0])], strings(node, NODE.output)[0]!, { keepdims: 0 });
    return [padded, cut, scale, inverse, rounded].flatMap((each) => each.nodes).concat(sum);
  }

  /** Operators one after another: an input "" is the output of the one before. */
  private operators(list: [type: string, inputs: string[], attributes?: Attributes][]): {
    nodes: Uint8Array[];
    output: string;
  } {
    let output = "";
    const nodes = list.map(([type, inputs, attributes]) => {
      const before = output;
      output = `browser.${this.nodes++}`;
      return made(type, inputs.map((input) => input || before), output, attributes);
    });
    return { nodes, output };
  }

  private tensor(name: string, shape: number[], values: () => Float32Array | BigInt64Array): string {
    if (!this.added.has(name)) {
      const data = values();
      const content = joined([
        ...shape.map((axis) => ofInteger(TENSOR.dims, axis)),
        ofInteger(TENSOR.type, data instanceof Float32Array ? FLOAT : INT64),
        ofBytes(TENSOR.name, name),
        ofBytes(TENSOR.raw, new Uint8Array(data.buffer)),
      ]);
      this.added.set(name, ofBytes(GRAPH.initializer, content));
    }
    return name;
  }

  private number(value: number): string {
    return this.tensor(`browser.number ${value}`, [], () => Float32Array.of(value));
  }

  private integers(values: number[]): string {
    const data = () => BigInt64Array.from(values, BigInt);
    return this.tensor(`browser.integers ${values.join(" ")}`, [values.length], data);
  }
}

type Attributes = Record<string, number | number[]>;

function made(type: string, inputs: string[], output: string, attributes: Attributes = {}): Uint8Array {
  const given = Object.entries(attributes).map(([name, value]) => {
    const list = Array.isArray(value);
    const values = [value].flat().map((each) => ofInteger(list ? ATTRIBUTE.integers : ATTRIBUTE.integer, each));
    const kind = ofInteger(ATTRIBUTE.type, list ? KIND_INTS : KIND_INT);
    return ofBytes(NODE.attribute, joined([ofBytes(ATTRIBUTE.name, name), ...values, kind]));
  });
  const read = inputs.map((input) => ofBytes(NODE.input, input));
  return joined([...read, ofBytes(NODE.output, output), ofBytes(NODE.type, type), ...given]);
}

function strings(message: Uint8Array, number: number): string[] {
  return [...fields(message)].filter((each) => each.number === number).map((each) => text(each.content));
}

function attribute(node: Uint8Array, name: string): number {
  for (const each of fields(node)) {
    if (each.number !== NODE.attribute || text(field(each.content, ATTRIBUTE.name)!.content) !== name) continue;
    return field(each.content, ATTRIBUTE.integer)!.value;
  }
  throw new Error(`an operator has no ${name}`);
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
