// GPT-2's printable character of each byte (Radford et al. 2019).

const visible = (byte: number) =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);

/** The character of each byte. */
export const ALPHABET: readonly string[] = (() => {
  let hidden = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(visible(byte) ? byte : 256 + hidden++));
})();

const BYTES = new Map(ALPHABET.map((character, byte) => [character, byte]));

/** The bytes of a byte-level BPE token. */
export function bytesOf(token: string): number[] {
  return Array.from(token, (character) => BYTES.get(character)!);
}
