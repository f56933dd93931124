// The uniform numbers that numpy draws from a seed: np.random.Generator(np.random.PCG64(seed)).random(dtype=float32).
//
// Seeding is numpy's SeedSequence (after O'Neill, "Developing a seed_seq alternative", 2015), the stream is
// PCG64 XSL-RR 128/64 (O'Neill, "PCG: a family of simple fast space-efficient generators", 2014).

const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL = 4;

/** A generator of uniform random numbers. Two calls give the numbers of one longer call. */
export class Uniform {
  private state: bigint;
  private readonly increment: bigint;
  private half: number | null = null; // a draw of 64 bits serves two numbers: the low half, then the high one

  /** @param seed a whole number, 0 or more, of any size */
  constructor(seed: bigint) {
    const [a, b, c, d] = seedWords(seed);
    this.increment = ((((c << 64n) | d) << 1n) | 1n) & MASK_128;
    this.state = (this.increment + ((a << 64n) | b)) & MASK_128;
    this.step();
  }

  /** Numbers in [0, 1) of 24 random bits each, which float32 holds exactly. */
  draw(count: number): Float32Array<ArrayBuffer> {
    return Float32Array.from({ length: count }, () => (this.next32() >>> 8) / 2 ** 24);
  }

  private next32(): number {
    if (this.half !== null) {
      const high = this.half;
      this.half = null;
      return high;
    }
    this.step();
    const mixed = (this.state >> 64n) ^ (this.state & MASK_64);
    const turn = this.state >> 122n;
    const word = ((mixed >> turn) | (mixed << (64n - turn))) & MASK_64;
    this.half = Number(word >> 32n);
    return Number(word & 0xffffffffn);
  }

  private step(): void {
    this.state = (this.state * MULTIPLIER + this.increment) & MASK_128;
  }
}

/** The four words of 64 bits that a SeedSequence gives a bit generator. */
function seedWords(seed: bigint): [bigint, bigint, bigint, bigint] {
  const entropy: number[] = [];
  for (let rest = seed; rest > 0n; rest >>= 32n) entropy.push(Number(rest & 0xffffffffn));
  const pool = mixed(entropy);
  const hash = hashing(0x8b51f9dd, 0x58f38ded);
  const words = Array.from({ length: 2 * POOL }, (_, at) => BigInt(hash(pool[at % POOL]!)));
  const word = (at: number) => words[2 * at]! | (words[2 * at + 1]! << 32n);
  return [word(0), word(1), word(2), word(3)];
}

function mixed(entropy: number[]): number[] {
  const hash = hashing(0x43b0d7e5, 0x931e8875);
  const pool = Array.from({ length: POOL }, (_, at) => hash(entropy[at] ?? 0));
  const stir = (into: number, word: number) => (pool[into] = mix(pool[into]!, hash(word)));
  for (let from = 0; from < POOL; from++)
    for (let into = 0; into < POOL; into++) if (from !== into) stir(into, pool[from]!);
  for (const word of entropy.slice(POOL)) for (let into = 0; into < POOL; into++) stir(into, word);
  return pool;
}

/** A hash of words of 32 bits whose constant moves on with each call. */
function hashing(constant: number, factor: number): (word: number) => number {
  return (word) => {
    const keyed = word ^ constant;
    constant = Math.imul(constant, factor);
    const product = Math.imul(keyed, constant);
    return (product ^ (product >>> 16)) >>> 0;
  };
}

function mix(one: number, other: number): number {
  const difference = (Math.imul(0xca01f9dd, one) - Math.imul(0x4973f715, other)) | 0;
  return (difference ^ (difference >>> 16)) >>> 0;
}
