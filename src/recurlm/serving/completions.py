"""A request of /v1/completions, from its prompts to its choices."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from recurlm.runtime.sampling import Sampling
from recurlm.runtime.stop import validate_stops
from recurlm.serving.engine import Engine
from recurlm.serving.errors import ApiError, streamed_error
from recurlm.serving.logprobs import Logprobs, TokenLogprob
from recurlm.serving.models import LoadedModel
from recurlm.serving.scheduler import Sequence as TokenSequence
from recurlm.serving.scheduler import Share
from recurlm.serving.schema import Choice, Completion, CompletionRequest, Usage
from recurlm.serving.schema import Logprobs as ChoiceLogprobs
from recurlm.serving.settings import SMALL_TOKENS, Limits
from recurlm.serving.text_stream import TextStream, token_text
from recurlm.serving.workers import Worker

DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass
class Prompt:
    """One prompt, and what its choices share."""

    text: str
    ids: list[int]  # `<bos>` and the prompt's tokens
    offsets: list[int]  # where each token begins in the text, if the prompt is scored
    logprobs: Logprobs | None  # of a text that begins with the prompt
    scored: ChoiceLogprobs | None = None  # the prompt's own, once they are known


@dataclass
class ChoiceJob:
    """One choice of the response."""

    index: int
    prompt: Prompt
    stream: TextStream
    logprobs: Logprobs | None = None  # of this choice's text, once the prompt has been read


@dataclass
class ChoiceParts:
    """The pieces of one choice, to be joined at the end."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[ChoiceLogprobs] = field(default_factory=list)
    finish_reason: Any = None

    def add(self, piece: Choice) -> None:
        self.texts.append(piece.text)
        if piece.logprobs:
            self.logprobs.append(piece.logprobs)
        self.finish_reason = piece.finish_reason

    def choice(self, index: int) -> Choice:
        logprobs = _joined(self.logprobs) if self.logprobs else None
        return Choice(text="".join(self.texts), index=index, logprobs=logprobs, finish_reason=self.finish_reason)


class CompletionJob:
    """One request: its sequences, their text streams, and its response."""

    def __init__(self, request: CompletionRequest, model: LoadedModel, limits: Limits, worker: Worker) -> None:
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
        for prompt in encoded:
            for _ in range(n):
                index = len(self.choices)
                seed = None if request.seed is None else request.seed + index
                sequence = TokenSequence(prompt.ids, max_tokens, sampling, seed, share)
                stream = TextStream(sequence, model.bundle.vocabulary, prompt.text, stops)
                self.choices.append(ChoiceJob(index, prompt, stream))
        self.sequences = [choice.stream.sequence for choice in self.choices] if max_tokens else []
        self.header = Completion(
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
        if not self.request.echo:
            return Prompt(text, ids, [], Logprobs(self.model.step_model, ids, self.request.logprobs))
        logprobs = Logprobs(self.model.step_model, ids[:1], self.request.logprobs)
        logprobs.add(ids[1:])
        return Prompt(text, ids, _offsets(text, ids, self.model), logprobs)

    def usage(self) -> Usage:
        completion_tokens = sum(len(choice.stream.tokens) for choice in self.choices)
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self.prompt_tokens + completion_tokens,
        )

    def cancel(self) -> None:
        """Stop generating: the client has gone, or has everything."""
        for sequence in self.sequences:
            sequence.cancelled = True

    def submit(self, engine: Engine) -> AsyncIterator[Choice]:
        """Queue the sequences; returns an iterator over pieces of the choices.

        Raises:
            ApiError: too many wait already.
        """
        job = engine.submit(self.sequences)
        self.model.metrics.prompt_tokens.inc(self.prompt_tokens)

        async def pieces() -> AsyncIterator[Choice]:
            try:
                if self.request.echo or not self.sequences:
                    for choice in self.choices:
                        yield await self._echo(choice)
                first = True
                while any(choice.stream.finish_reason is None for choice in self.choices):
                    for index, tokens, last in await job.new_tokens():
                        if self.choices[index].stream.finish_reason is None:
                            yield await self._piece(self.choices[index], tokens, last)
                    if first:
                        self.model.metrics.first_token_seconds.observe(time.perf_counter() - self.start_time)
                    first = False
            finally:
                self.cancel()

        return pieces()

    async def completion(self, engine: Engine) -> str:
        """The whole response, as JSON."""
        parts = [ChoiceParts() for _ in self.choices]
        async for piece in self.submit(engine):
            parts[piece.index].add(piece)

        def to_json() -> str:
            # Choice by choice, so that the event loop gets its turns in between.
            header = self.header.model_copy(update={"usage": self.usage()}).model_dump_json(exclude={"choices"})
            choices = ",".join(part.choice(index).model_dump_json() for index, part in enumerate(parts))
            return f'{header[:-1]},"choices":[{choices}]}}'

        return await asyncio.to_thread(to_json)

    async def _echo(self, choice: ChoiceJob) -> Choice:
        logprobs = None
        if choice.prompt.logprobs and self.request.echo:
            await self._read_prompt(choice)
            logprobs = choice.prompt.scored
        text = choice.prompt.text if self.request.echo else ""
        return Choice(text=text, index=choice.index, logprobs=logprobs, finish_reason=choice.stream.finish_reason)

    async def _piece(self, choice: ChoiceJob, tokens: list[int], last: bool) -> Choice:
        stream, before = choice.stream, len(choice.stream.tokens)
        text = stream.feed(tokens, last)
        logprobs = None
        if choice.prompt.logprobs:
            await self._read_prompt(choice)
            assert choice.logprobs is not None
            choice.logprobs.add(stream.tokens[before:])
            shift = len(choice.prompt.text) if self.request.echo else 0
            logprobs = await self._score(choice.logprobs, [shift + offset for offset in stream.offsets[before:]])
        return Choice(text=text, index=choice.index, logprobs=logprobs, finish_reason=stream.finish_reason)

    async def _read_prompt(self, choice: ChoiceJob) -> None:
        """Read the choice's prompt, once for all choices that share it."""
        prompt = choice.prompt
        assert prompt.logprobs is not None
        if prompt.scored is None:
            prompt.scored = await self._score(prompt.logprobs, prompt.offsets)
        if choice.logprobs is None:
            choice.logprobs = prompt.logprobs.fork()

    async def _score(self, logprobs: Logprobs, offsets: Sequence[int]) -> ChoiceLogprobs:
        """The log-probabilities of what `logprobs` has not read yet; `offsets`: where those tokens begin."""
        slices = [self._described([])]
        begin = 0
        while logprobs.waiting:
            part = await self.worker.run(lambda: self._described(logprobs.read_slice()), self.size)
            part.text_offset = list(offsets[begin : begin + len(part.tokens)])
            begin += len(part.tokens)
            slices.append(part)
        return _joined(slices)

    def _described(self, scored: list[TokenLogprob]) -> ChoiceLogprobs:
        vocabulary = self.model.bundle.vocabulary

        def top(token: TokenLogprob) -> dict[str, float]:
            return {token_text(other, vocabulary): log_prob for other, log_prob in token.top}

        return ChoiceLogprobs(
            tokens=[token_text(token.token, vocabulary) for token in scored],
            token_logprobs=[token.log_prob for token in scored],
            top_logprobs=[top(token) for token in scored] if self.request.logprobs else None,
            text_offset=[],
        )


def _checked(request: CompletionRequest, limits: Limits) -> tuple[list[str | list[int]], int, int]:
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
    if len(prompts) * n > limits.batch:
        param = "n" if n > 1 else "prompt"
        raise ApiError(400, f"{len(prompts)} prompts with {n} texts each: at most {limits.batch} in all", param)
    return prompts, n, max_tokens


def _sampling(request: CompletionRequest) -> Sampling:
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
    if len(ids) - 1 > limits.prompt_tokens:
        raise ApiError(400, f"prompt: {len(ids) - 1} tokens, at most {limits.prompt_tokens}", "prompt")
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


def _joined(parts: Sequence[ChoiceLogprobs]) -> ChoiceLogprobs:
    """The log-probabilities of a text, from those of its parts in their order."""
    tops = [top for part in parts for top in part.top_logprobs or []]
    return ChoiceLogprobs(
        tokens=[token for part in parts for token in part.tokens],
        token_logprobs=[log_prob for part in parts for log_prob in part.token_logprobs],
        top_logprobs=tops if any(part.top_logprobs is not None for part in parts) else None,
        text_offset=[offset for part in parts for offset in part.text_offset],
    )


async def server_sent_events(job: CompletionJob, pieces: AsyncIterator[Choice]) -> AsyncIterator[str]:
    """The response as server-sent events; the last is [DONE], or an error."""
    header, options = job.header, job.request.stream_options
    include_usage = options is not None and options.include_usage
    try:
        async for piece in pieces:
            if piece.text or piece.finish_reason or piece.logprobs:
                chunk = header.model_copy(update={"choices": [piece]})
                yield f"data: {chunk.model_dump_json(exclude=None if include_usage else {'usage'})}\n\n"
                # Lets a disconnected client be noticed, where many pieces are ready.
                await asyncio.sleep(0)
        if include_usage:
            yield f"data: {header.model_copy(update={'usage': job.usage()}).model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield f"data: {streamed_error(error).body()}\n\n"
    finally:
        job.cancel()
