// A graph whose optional inputs can be given.
//
// onnxruntime-web takes values only for inputs that have no default. A default is an initializer of the same name:
// without it the input becomes one that must be given. The file is checked against its sha256 before this, and its
// weights and operators stay as they are.

const GRAPH = 7; // ModelProto.graph
const INITIALIZER = 5; // GraphProto.initializer: TensorProto
const TENSOR_NAME = 8; // TensorProto.name
const INPUT = 11; // GraphProto.input: ValueInfoProto
const VALUE_NAME = 1; // ValueInfoProto.name
const BYTES = 2; // the wire type of what has a length

interface Field {
  number: number;
  begin: number; // of the field with its tag
  content: number; // where its value begins
  end: number;
  type: number;
}

/** The bytes of the model with no default for any input. */
export function withoutDefaults(model: Uint8Array): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const field of fields(model, 0, model.length)) {
    if (field.number !== GRAPH || field.type !== BYTES) {
      parts.push(model.subarray(field.begin, field.end));
      continue;
    }
    const graph = [...fields(model, field.content, field.end)];
    const named = (of: number, place: number) =>
      graph.filter((each) => each.number === of).map((each) => [name(model, each, place), each] as const);
    const inputs = new Set(named(INPUT, VALUE_NAME).map(([input]) => input));
    const defaults = new Set(named(INITIALIZER, TENSOR_NAME).filter(([key]) => inputs.has(key)).map(([, each]) => each));
    const kept = graph.filter((each) => !defaults.has(each)).map((each) => model.subarray(each.begin, each.end));
    parts.push(tag(GRAPH, kept.reduce((sum, part) => sum + part.length, 0)), ...kept);
  }
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function name(model: Uint8Array, message: Field, place: number): string {
  for (const field of fields(model, message.content, message.end))
    if (field.number === place) return new TextDecoder().decode(model.subarray(field.content, field.end));
  return "";
}

/** The fields of a protobuf message (protobuf.dev, "Encoding"). */
function* fields(bytes: Uint8Array, begin: number, end: number): Generator<Field> {
  let at = begin;
  const varint = () => {
    // Lengths may be more than 31 bits, so no shifts.
    for (let value = 0, unit = 1; ; unit *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * unit;
      if (byte < 128) return value;
    }
  };
  while (at < end) {
    const first = at;
    const key = varint();
    const type = key % 8;
    const length = type === BYTES ? varint() : type === 5 ? 4 : type === 1 ? 8 : 0;
    const content = at;
    if (type === 0) varint();
    at += length;
    if (at > end || ![0, 1, BYTES, 5].includes(type)) throw new Error("not an ONNX file");
    yield { number: Math.floor(key / 8), begin: first, content, end: at, type };
  }
}

function tag(number: number, length: number): Uint8Array {
  const bytes = [number * 8 + BYTES];
  for (; length >= 128; length = Math.floor(length / 128)) bytes.push((length % 128) | 128);
  return Uint8Array.from([...bytes, length]);
}
