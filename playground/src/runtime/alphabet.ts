// The visible characters that byte-level tokens write bytes in (Radford et al. 2019).

const visible = (byte: number) =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);

/** By byte, its character. */
export const ALPHABET: readonly string[] = (() => {
  let hidden = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(visible(byte) ? byte : 256 + hidden++));
})();

const BYTES = new Map(ALPHABET.map((character, byte) => [character, byte]));

/** The bytes that a byte-level token stands for; a special token stands for none. */
export function bytesOf(token: string): number[] {
  const bytes = Array.from(token, (character) => BYTES.get(character));
  return bytes.includes(undefined) ? [] : (bytes as number[]);
}
