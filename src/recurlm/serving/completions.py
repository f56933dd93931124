"""A request of /v1/completions, from its prompts to its choices."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from recurlm.runtime.sampling import Sampling
from recurlm.runtime.stop import validate_stops
from recurlm.serving.engine import Engine
from recurlm.serving.errors import ApiError
from recurlm.serving.logprobs import Logprobs, TokenLogprob
from recurlm.serving.models import LoadedModel, WorkerThread
from recurlm.serving.scheduler import Sequence
from recurlm.serving.schema import Choice, Completion, CompletionRequest, Usage
from recurlm.serving.schema import Logprobs as ChoiceLogprobs
from recurlm.serving.settings import Limits
from recurlm.serving.text_stream import TextStream, token_text

DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass
class ChoiceJob:
    """One choice of the response."""

    index: int
    prompt: str
    ids: list[int]  # `<bos>` and the prompt's tokens
    stream: TextStream
    logprobs: Logprobs | None


class CompletionJob:
    """One request: its sequences, their text streams, and its response."""

    def __init__(
        self, request: CompletionRequest, model: LoadedModel, limits: Limits, logprob_thread: WorkerThread
    ) -> None:
        """Check the request and encode its prompts; generation starts with `submit`.

        Raises:
            ApiError, InputError: it exceeds the limits, or a prompt or setting is invalid.
        """
        self.start_time = time.perf_counter()
        self.request, self.model, self.logprob_thread = request, model, logprob_thread
        prompts, n, max_tokens = _checked(request, limits)
        sampling = _sampling(request)
        stops = validate_stops(request.stop)
        self.choices: list[ChoiceJob] = []
        self.prompt_tokens = 0
        for prompt in prompts:
            text, ids = _encode(prompt, model, limits)
            self.prompt_tokens += len(ids) - 1
            for _ in range(n):
                index = len(self.choices)
                sequence = Sequence(ids, max_tokens, sampling, None if request.seed is None else request.seed + index)
                logprobs = None
                if request.logprobs is not None:
                    logprobs = Logprobs(model.step_model, ids[:1] if request.echo else ids, request.logprobs)
                stream = TextStream(sequence, model.bundle.vocabulary, text, stops)
                self.choices.append(ChoiceJob(index, text, ids, stream, logprobs))
        self.sequences = [choice.stream.sequence for choice in self.choices] if max_tokens else []
        self.header = Completion(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model.name,
            system_fingerprint=model.fingerprint,
            choices=[],
        )

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

    async def completion(self, engine: Engine) -> Completion:
        """The whole response."""
        choices: dict[int, Choice] = {}
        async for piece in self.submit(engine):
            choices[piece.index] = _joined(choices.get(piece.index), piece)
        return self.header.model_copy(
            update={"choices": [choices[index] for index in sorted(choices)], "usage": self.usage()}
        )

    async def _echo(self, choice: ChoiceJob) -> Choice:
        logprobs = None
        if choice.logprobs and self.request.echo:
            logprobs = await self._score(choice.logprobs, choice.ids[1:], self._prompt_offsets(choice))
        text = choice.prompt if self.request.echo else ""
        return Choice(text=text, index=choice.index, logprobs=logprobs, finish_reason=choice.stream.finish_reason)

    def _prompt_offsets(self, choice: ChoiceJob) -> list[int]:
        vocabulary, ids = self.model.bundle.vocabulary, choice.ids
        encoded = vocabulary.tokenizer.encode(choice.prompt, add_special_tokens=False)
        if encoded.ids == ids[1:]:
            return [begin for begin, _ in encoded.offsets]
        # The prompt was given as token ids, and its text is encoded otherwise.
        return [len(vocabulary.text(ids[1:end])) for end in range(1, len(ids))]

    async def _piece(self, choice: ChoiceJob, tokens: list[int], last: bool) -> Choice:
        stream, before = choice.stream, len(choice.stream.tokens)
        text = stream.feed(tokens, last)
        logprobs = None
        if choice.logprobs:
            shift = len(choice.prompt) if self.request.echo else 0
            offsets = [shift + offset for offset in stream.offsets[before:]]
            logprobs = await self._score(choice.logprobs, stream.tokens[before:], offsets)
        return Choice(text=text, index=choice.index, logprobs=logprobs, finish_reason=stream.finish_reason)

    async def _score(self, logprobs: Logprobs, tokens: list[int], offsets: list[int]) -> ChoiceLogprobs:
        scored = await self.logprob_thread.run(lambda: logprobs.feed(tokens))
        vocabulary = self.model.bundle.vocabulary

        def top(token: TokenLogprob) -> dict[str, float]:
            return {token_text(other, vocabulary): log_prob for other, log_prob in token.top}

        return ChoiceLogprobs(
            tokens=[token_text(token, vocabulary) for token in tokens],
            token_logprobs=[token.log_prob for token in scored],
            top_logprobs=[top(token) for token in scored] if logprobs.top else None,
            text_offset=offsets,
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


def _joined(before: Choice | None, piece: Choice) -> Choice:
    """A choice so far with its next piece."""
    if before is None:
        return piece
    logprobs = before.logprobs
    if logprobs and piece.logprobs:
        logprobs.tokens += piece.logprobs.tokens
        logprobs.token_logprobs += piece.logprobs.token_logprobs
        logprobs.text_offset += piece.logprobs.text_offset
        if logprobs.top_logprobs is not None:
            logprobs.top_logprobs += piece.logprobs.top_logprobs or []
    return Choice(
        text=before.text + piece.text,
        index=piece.index,
        logprobs=logprobs or piece.logprobs,
        finish_reason=piece.finish_reason,
    )


async def server_sent_events(job: CompletionJob, pieces: AsyncIterator[Choice]) -> AsyncIterator[str]:
    """The response as server-sent events; the last is [DONE]."""
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
    except asyncio.CancelledError:
        raise
    except ApiError as error:
        yield f"data: {error.body()}\n\n"
    finally:
        job.cancel()
