// Protobuf messages as the bytes that they are (protobuf.dev, "Encoding"): enough to change an ONNX file in place.

export interface Field {
  number: number;
  whole: Uint8Array; // with its tag
  content: Uint8Array; // of a string, bytes or a message; else empty
  value: number; // of a varint; else 0
}

const VARINT = 0;
const BYTES = 2;
const FIXED: Record<number, number> = { 1: 8, 5: 4 };

export function* fields(bytes: Uint8Array): Generator<Field> {
  let at = 0;
  const varint = () => {
    // Lengths may be more than 31 bits, so no shifts.
    for (let value = 0, unit = 1; ; unit *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * unit;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const begin = at;
    const key = varint();
    const type = key % 8;
    const value = type === VARINT ? varint() : 0;
    const length = type === BYTES ? varint() : (FIXED[type] ?? 0);
    const content = bytes.subarray(at, at + length);
    at += length;
    if (at > bytes.length || !(type === VARINT || type === BYTES || type in FIXED)) throw new Error("not an ONNX file");
    yield { number: Math.floor(key / 8), whole: bytes.subarray(begin, at), content, value };
  }
}

export function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** The first field of a number, or none. */
export function field(message: Uint8Array, number: number): Field | undefined {
  for (const each of fields(message)) if (each.number === number) return each;
  return undefined;
}

export function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A field that holds a string, bytes or a message. */
export function ofBytes(number: number, content: Uint8Array | string): Uint8Array {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  return joined([varint(number * 8 + BYTES), varint(bytes.length), bytes]);
}

export function ofInteger(number: number, value: number): Uint8Array {
  return joined([varint(number * 8 + VARINT), varint(value)]);
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.from([...bytes, value]);
}
