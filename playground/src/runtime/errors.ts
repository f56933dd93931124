/** What a person gave cannot be used; the message is one line for them. */
export class InputError extends Error {}
