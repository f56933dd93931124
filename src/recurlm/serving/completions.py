"""A request of /v1/completions, from its prompts to its choices."""

from __future__ import annotations

import asyncio
import copy
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from recurlm.runtime import GraphSession
from recurlm.runtime.generator import StopSearch, validate_stops
from recurlm.runtime.sampling import Sampling
from recurlm.runtime.session import State
from recurlm.runtime.tokenizer import Decoder, Vocabulary
from recurlm.serving import schema
from recurlm.serving.engine import Engine
from recurlm.serving.exceptions import ApiError, streamed_error
from recurlm.serving.models import LoadedModel
from recurlm.serving.scheduler import Sequence as TokenSequence
from recurlm.serving.scheduler import Share
from recurlm.serving.settings import SMALL_TOKENS, Limits
from recurlm.serving.workers import Worker

DEFAULT_MAX_TOKENS = 16  # OpenAI's
SLICE_TOKENS = 64  # whose log-probabilities are computed at once, so that a long text does not hold up the others


@dataclass
class Prompt:
    """One prompt, and what its choices share."""

    text: str
    ids: list[int]  # `<bos>` and the prompt's tokens
    offsets: list[int]  # where each token begins in the text, if the prompt is scored
    logprobs: Logprobs | None  # of a text that begins with the prompt
    scored: list[TokenLogprob] | None = None  # the prompt's own, once they are known


@dataclass
class Piece:
    """What a choice has more than before: text, and log-probabilities if they are asked for."""

    index: int
    text: str = ""
    logprobs: list[TokenLogprob] | None = None
    offsets: list[int] = field(default_factory=list)  # where the tokens begin in the choice's text
    finish_reason: Literal["stop", "length"] | None = None


class ChoiceJob:
    """One choice of the response: its tokens decoded, and cut at stop sequences."""

    def __init__(self, index: int, prompt: Prompt, sequence: TokenSequence, decoder: Decoder, stops: list[str]) -> None:
        self.index, self.prompt, self.sequence = index, prompt, sequence
        self.max_tokens = sequence.tokens_left
        self.tokens: list[int] = []
        self.offsets: list[int] = []  # where each token begins, in characters after the prompt
        self.finish_reason: Literal["stop", "length"] | None = None if self.max_tokens else "length"
        self.logprobs: Logprobs | None = None  # of this choice's text, once the prompt has been read
        self._decoder = decoder
        self._stop_search = StopSearch(stops)
        self._decoded = 0  # characters, held back or not

    def feed(self, tokens: Iterable[int], last: bool) -> str:
        """The text that these tokens add; sets `finish_reason` where the text ends.

        `last`: whether the sequence ended with them. The sequence itself may be some chunks ahead.
        """
        parts = []
        for token in tokens:
            self.tokens.append(token)
            self.offsets.append(self._decoded)
            text = self._decoder.feed([token])
            self._decoded += len(text)
            parts.append(self._stop_search.feed(text))
            if self._stop_search.found:
                self.finish_reason, self.sequence.cancelled = "stop", True
                return "".join(parts)
        if len(self.tokens) == self.max_tokens:
            self.finish_reason = "length"
        elif last:
            self.finish_reason = "stop"
        if self.finish_reason:
            parts.append(self._stop_search.held)
        return "".join(parts)


class CompletionJob:
    """One request: its sequences, their texts, and its response."""

    def __init__(self, request: schema.CompletionRequest, model: LoadedModel, limits: Limits, worker: Worker) -> None:
        """Check the request and encode its prompts; generation starts with `submit`.

        Args:
            worker: scores tokens.

        Raises:
            ApiError, InputError: it exceeds the limits, or a prompt or setting is invalid.
        """
        self.start_time = time.perf_counter()
        self.request, self.model, self.worker = request, model, worker
        prompts, n, max_tokens = _checked(request, limits)
        sampling, stops = _sampling(request), validate_stops(request.stop)
        encoded = [self._prompt(prompt, limits) for prompt in prompts]
        self.prompt_tokens = sum(len(prompt.ids) - 1 for prompt in encoded)
        # What there is to read and to generate, in tokens: decides whether the request is a small one.
        self.size = n * sum(len(prompt.ids) - 1 + max_tokens for prompt in encoded)
        share = Share(small=self.size <= SMALL_TOKENS)
        self.choices: list[ChoiceJob] = []
        for index, prompt in enumerate(prompt for prompt in encoded for _ in range(n)):
            seed = None if request.seed is None else request.seed + index
            sequence = TokenSequence(prompt.ids, max_tokens, sampling, seed, share)
            decoder = model.bundle.vocabulary.decoder(prompt.text, prompt.ids[-1])
            self.choices.append(ChoiceJob(index, prompt, sequence, decoder, stops))
        self.sequences = [choice.sequence for choice in self.choices] if max_tokens else []
        self.header = schema.Completion(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model.name,
            system_fingerprint=model.fingerprint,
            choices=[],
        )

    def _prompt(self, prompt: str | list[int], limits: Limits) -> Prompt:
        text, ids = _encode(prompt, self.model, limits)
        if self.request.logprobs is None:
            return Prompt(text, ids, [], None)
        offsets = _offsets(text, ids, self.model) if self.request.echo else []
        return Prompt(text, ids, offsets, Logprobs(self.model.step, self.request.logprobs))

    def usage(self) -> schema.Usage:
        completion_tokens = sum(len(choice.tokens) for choice in self.choices)
        return schema.Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self.prompt_tokens + completion_tokens,
        )

    def cancel(self) -> None:
        """Stop generating: the client has gone, or has everything."""
        for sequence in self.sequences:
            sequence.cancelled = True

    def submit(self, engine: Engine) -> AsyncIterator[Piece]:
        """Queue the sequences; returns an iterator over pieces of the choices.

        Raises:
            ApiError: too many wait already.
        """
        job = engine.submit(self.sequences)
        self.model.metrics.prompt_tokens.inc(self.prompt_tokens)

        async def pieces() -> AsyncIterator[Piece]:
            try:
                if self.request.echo or not self.sequences:
                    for choice in self.choices:
                        yield await self._echo(choice)
                first = True
                while any(choice.finish_reason is None for choice in self.choices):
                    for index, tokens, last in await job.new_tokens():
                        if self.choices[index].finish_reason is None:
                            yield await self._piece(self.choices[index], tokens, last)
                    if first:
                        self.model.metrics.first_token_seconds.observe(time.perf_counter() - self.start_time)
                    first = False
            finally:
                self.cancel()

        return pieces()

    async def completion(self, engine: Engine) -> str:
        """The whole response, as JSON."""
        wholes = [Piece(choice.index) for choice in self.choices]
        texts: list[list[str]] = [[] for _ in wholes]
        async for piece in self.submit(engine):
            whole = wholes[piece.index]
            texts[piece.index].append(piece.text)
            whole.finish_reason = piece.finish_reason
            if piece.logprobs is not None:
                whole.logprobs = whole.logprobs or []
                whole.logprobs += piece.logprobs
                whole.offsets += piece.offsets

        def to_json() -> str:
            # Choice by choice, so that the event loop gets its turns in between.
            header = self.header.model_copy(update={"usage": self.usage()}).model_dump_json(exclude={"choices"})
            for whole, parts in zip(wholes, texts, strict=True):
                whole.text = "".join(parts)
            choices = ",".join(self._choice(whole).model_dump_json() for whole in wholes)
            return f'{header[:-1]},"choices":[{choices}]}}'

        return await asyncio.to_thread(to_json)

    async def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
        """The response as server-sent events; the last is [DONE], or an error."""
        options = self.request.stream_options
        include_usage = options is not None and options.include_usage
        try:
            async for piece in pieces:
                if piece.text or piece.finish_reason or piece.logprobs is not None:
                    long = len(piece.logprobs or ()) > SLICE_TOKENS
                    choice = await asyncio.to_thread(self._choice, piece) if long else self._choice(piece)
                    chunk = self.header.model_copy(update={"choices": [choice]})
                    yield f"data: {chunk.model_dump_json(exclude=None if include_usage else {'usage'})}\n\n"
                    # Lets a disconnected client be noticed, where many pieces are ready.
                    await asyncio.sleep(0)
            if include_usage:
                yield f"data: {self.header.model_copy(update={'usage': self.usage()}).model_dump_json()}\n\n"
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield f"data: {streamed_error(error).body()}\n\n"
        finally:
            self.cancel()

    async def _echo(self, choice: ChoiceJob) -> Piece:
        piece = Piece(choice.index, finish_reason=choice.finish_reason)
        if self.request.echo:
            piece.text, piece.offsets = choice.prompt.text, choice.prompt.offsets
            if choice.prompt.logprobs:
                await self._read_prompt(choice)
                piece.logprobs = choice.prompt.scored
        return piece

    async def _piece(self, choice: ChoiceJob, tokens: list[int], last: bool) -> Piece:
        before = len(choice.tokens)
        piece = Piece(choice.index, choice.feed(tokens, last), finish_reason=choice.finish_reason)
        if choice.prompt.logprobs:
            logprobs = await self._read_prompt(choice)
            piece.logprobs = await self._read(logprobs, choice.tokens[before:])
            shift = len(choice.prompt.text) if self.request.echo else 0
            piece.offsets = [shift + offset for offset in choice.offsets[before:]]
        return piece

    async def _read_prompt(self, choice: ChoiceJob) -> Logprobs:
        """Read the choice's prompt, once for all choices that share it."""
        prompt = choice.prompt
        assert prompt.logprobs is not None
        if prompt.scored is None:
            prompt.scored = await self._read(prompt.logprobs, prompt.ids, score=bool(self.request.echo))
        choice.logprobs = choice.logprobs or copy.copy(prompt.logprobs)
        return choice.logprobs

    async def _read(self, logprobs: Logprobs, tokens: Sequence[int], score: bool = True) -> list[TokenLogprob]:
        """The log-probabilities of the next tokens, read in slices."""
        slices = [tokens[begin : begin + SLICE_TOKENS] for begin in range(0, len(tokens), SLICE_TOKENS)]
        if not slices:
            return []
        parts = [partial(logprobs.read, part, score) for part in slices]
        return [token for part in await self.worker.run_parts(parts, len(tokens), self.size) for token in part]

    def _choice(self, piece: Piece) -> schema.Choice:
        vocabulary, logprobs = self.model.bundle.vocabulary, None
        if piece.logprobs is not None:
            tops: list[dict[str, float] | None] = [
                {token_text(token, vocabulary): value for token, value in each.top} for each in piece.logprobs
            ]
            logprobs = schema.Logprobs(
                tokens=[token_text(each.token, vocabulary) for each in piece.logprobs],
                token_logprobs=[each.log_prob for each in piece.logprobs],
                top_logprobs=tops if self.request.logprobs else None,
                text_offset=piece.offsets,
            )
        return schema.Choice(text=piece.text, index=piece.index, logprobs=logprobs, finish_reason=piece.finish_reason)


def _checked(request: schema.CompletionRequest, limits: Limits) -> tuple[list[str | list[int]], int, int]:
    """The prompts, the number of choices of each, and the most tokens of a choice."""
    prompt, n = request.prompt, request.n or 1
    max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    if max_tokens > limits.max_tokens:
        raise ApiError(400, f"max_tokens is {max_tokens}: at most {limits.max_tokens}", "max_tokens")
    if request.stream_options and not request.stream:
        raise ApiError(400, "stream_options: only where stream is true", "stream_options")
    if prompt is None or isinstance(prompt, str):
        prompts: list[Any] = [prompt or ""]
    else:
        prompts = [prompt] if isinstance(prompt[0], int) else [*prompt]
    if len(prompts) * n > limits.max_batch:
        param = "n" if n > 1 else "prompt"
        raise ApiError(400, f"{len(prompts)} prompts with {n} texts each: at most {limits.max_batch} in all", param)
    return prompts, n, max_tokens


def _sampling(request: schema.CompletionRequest) -> Sampling:
    """The request's settings; OpenAI's defaults, and neutral ones for the extensions."""
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=request.top_k or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
    )


def _encode(prompt: str | list[int], model: LoadedModel, limits: Limits) -> tuple[str, list[int]]:
    """A prompt's text, and its tokens after `<bos>`."""
    vocabulary = model.bundle.vocabulary
    if isinstance(prompt, str):
        model.check_length(prompt, "prompt", limits)
        ids = [vocabulary.bos, *vocabulary.known_ids(prompt, "the prompt")]
        text = prompt
    else:
        size = vocabulary.tokenizer.get_vocab_size()
        if max(prompt) >= size:
            raise ApiError(400, f"prompt: there is no token {max(prompt)}: 0 to {size - 1}", "prompt")
        ids = [vocabulary.bos, *prompt]
        text = vocabulary.text(prompt)
    if len(ids) - 1 > limits.max_prompt_tokens:
        raise ApiError(400, f"prompt: {len(ids) - 1} tokens, at most {limits.max_prompt_tokens}", "prompt")
    return text, ids


def _offsets(text: str, ids: list[int], model: LoadedModel) -> list[int]:
    """Where each token after `<bos>` begins in the prompt's text."""
    vocabulary = model.bundle.vocabulary
    encoded = vocabulary.tokenizer.encode(text, add_special_tokens=False)
    if encoded.ids == ids[1:]:
        return [begin for begin, _ in encoded.offsets]
    # The prompt was given as token ids, and its text is encoded otherwise.
    decoder, offsets, size = vocabulary.decoder("", vocabulary.bos), [], 0
    for token in ids[1:]:
        offsets.append(size)
        size += len(decoder.feed([token]))
    return offsets


# Log-probabilities of a text's tokens, and of the likeliest alternatives, by step.onnx.


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability, and those of the likeliest tokens in its place."""

    token: int
    log_prob: float
    top: list[tuple[int, float]]


class Logprobs:
    """Reads one text token by token. A copy goes on with another text that begins with the same tokens."""

    def __init__(self, session: GraphSession, top: int) -> None:
        """`session`: of step.onnx; `top`: the number of alternatives."""
        self.session, self.top = session, top
        self._state: State | None = None
        self._log_probs: Any = None  # [vocabulary], of the token after those that were read

    def read(self, tokens: Iterable[int], score: bool = True) -> list[TokenLogprob]:
        """Read the text's next tokens, of which `<bos>` comes first and is not scored; their log-probabilities."""
        scored = []
        for token in tokens:
            if score and self._log_probs is not None:
                scored.append(self._score(token))
            results, self._state = self.session.run(["logits"], {"token": np.array([token])}, self._state)
            logits = results["logits"][0].astype(np.float64)
            self._log_probs = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        return scored

    def _score(self, token: int) -> TokenLogprob:
        likeliest = np.argsort(-self._log_probs, kind="stable")[: self.top].tolist()
        top = [(other, float(self._log_probs[other])) for other in likeliest]
        return TokenLogprob(token, float(self._log_probs[token]), top)


def token_text(token: int, vocabulary: Vocabulary) -> str:
    """A token as text; its bytes where they are no whole characters, its name where it is a special token."""
    text = vocabulary.text([token])
    if vocabulary.kind == "bpe" and "\ufffd" in text:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in vocabulary.token_bytes([token]))
    return text or str(vocabulary.tokenizer.id_to_token(token))
