"""A request of /v1/completions, from its prompts to its texts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from recurlm.runtime.sampling import Sampling
from recurlm.serving.batch import Row
from recurlm.serving.engine import Engine
from recurlm.serving.errors import ApiError
from recurlm.serving.loaded import Loaded, Workers
from recurlm.serving.logprobs import Logprobs, Scored
from recurlm.serving.schema import Choice, Completion, CompletionRequest, Usage
from recurlm.serving.schema import Logprobs as LogprobsAnswer
from recurlm.serving.settings import Limits
from recurlm.serving.writing import Writer, name_of

DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass
class Text:
    """One text of the answer."""

    index: int
    prompt: str
    ids: list[int]  # the prompt's, the start of a text first
    writer: Writer
    logprobs: Logprobs | None


class Completing:
    """One request."""

    def __init__(self, request: CompletionRequest, model: Loaded, limits: Limits, workers: Workers) -> None:
        """Read the prompts; nothing is drawn yet.

        Raises:
            ApiError, InputError: more than the limits, or something in a prompt or setting that cannot be.
        """
        self.begun = time.perf_counter()
        self.request, self.model, self.workers = request, model, workers
        prompts, each, longest = _checked(request, limits)
        sampling = _sampling(request)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        self.texts: list[Text] = []
        self.prompt_tokens = 0
        for prompt in prompts:
            text, ids = _read(prompt, model, limits)
            self.prompt_tokens += len(ids) - 1
            for _ in range(each):
                index = len(self.texts)
                row = Row(ids, longest, sampling, None if request.seed is None else request.seed + index)
                writer = Writer(row, model.bundle.vocabulary, text, stops)
                scores = None
                if request.logprobs is not None:
                    scores = Logprobs(model.steps, ids[:1] if request.echo else ids, request.logprobs)
                self.texts.append(Text(index, text, ids, writer, scores))
        self.rows = [text.writer.row for text in self.texts] if longest else []
        self.head = Completion(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model.name,
            system_fingerprint=model.fingerprint,
            choices=[],
        )

    def usage(self) -> Usage:
        completion = sum(len(text.writer.tokens) for text in self.texts)
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion,
            total_tokens=self.prompt_tokens + completion,
        )

    def cancel(self) -> None:
        """Nobody wants the rest."""
        for row in self.rows:
            row.cancelled = True

    def submit(self, engine: Engine) -> AsyncIterator[Choice]:
        """Let the texts wait for their turn; what is returned gives them in pieces.

        Raises:
            ApiError: too many wait already.
        """
        job = engine.submit(self.rows)
        self.model.measures.read.inc(self.prompt_tokens)

        async def pieces() -> AsyncIterator[Choice]:
            try:
                if self.request.echo or not self.rows:
                    for text in self.texts:
                        yield await self._echo(text)
                first = True
                while any(text.writer.finish is None for text in self.texts):
                    for place, tokens, last in await job.drawn():
                        if self.texts[place].writer.finish is None:
                            yield await self._piece(self.texts[place], tokens, last)
                    if first:
                        self.model.measures.first.observe(time.perf_counter() - self.begun)
                    first = False
            finally:
                self.cancel()

        return pieces()

    async def whole(self, engine: Engine) -> Completion:
        """The answer in one."""
        choices: dict[int, Choice] = {}
        async for piece in self.submit(engine):
            choices[piece.index] = _joined(choices.get(piece.index), piece)
        return self.head.model_copy(
            update={"choices": [choices[index] for index in sorted(choices)], "usage": self.usage()}
        )

    async def _echo(self, text: Text) -> Choice:
        shown = text.prompt if self.request.echo else ""
        answer = None
        if text.logprobs and self.request.echo:
            answer = await self._scored(text.logprobs, text.ids[1:], self._offsets(text))
        return Choice(text=shown, index=text.index, logprobs=answer, finish_reason=text.writer.finish)

    def _offsets(self, text: Text) -> list[int]:
        encoded = self.model.bundle.vocabulary.tokenizer.encode(text.prompt, add_special_tokens=False)
        if encoded.ids == text.ids[1:]:
            return [begin for begin, _ in encoded.offsets]
        # Given as tokens that are not the text's own.
        return [len(self.model.bundle.vocabulary.text(text.ids[1:at])) for at in range(1, len(text.ids))]

    async def _piece(self, text: Text, tokens: list[int], last: bool) -> Choice:
        writer, before = text.writer, len(text.writer.tokens)
        new = writer.write(tokens, last)
        answer = None
        if text.logprobs:
            shift = len(text.prompt) if self.request.echo else 0
            answer = await self._scored(
                text.logprobs, writer.tokens[before:], [shift + at for at in writer.offsets[before:]]
            )
        return Choice(text=new, index=text.index, logprobs=answer, finish_reason=writer.finish)

    async def _scored(self, logprobs: Logprobs, tokens: list[int], offsets: list[int]) -> LogprobsAnswer:
        scored = await self.workers.run(lambda: logprobs.feed(tokens))
        vocabulary = self.model.bundle.vocabulary

        def top(one: Scored) -> dict[str, float]:
            return {name_of(token, vocabulary): log_prob for token, log_prob in one.top}

        return LogprobsAnswer(
            tokens=[name_of(token, vocabulary) for token in tokens],
            token_logprobs=[one.log_prob for one in scored],
            top_logprobs=[top(one) for one in scored] if logprobs.top else None,
            text_offset=offsets,
        )


def _checked(request: CompletionRequest, limits: Limits) -> tuple[list[str | list[int]], int, int]:
    """The prompts, how many texts each gets, and how long these may be."""
    prompt, each = request.prompt, request.n or 1
    longest = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    if longest > limits.max_tokens:
        raise ApiError(400, f"max_tokens is {longest}: at most {limits.max_tokens}", "max_tokens")
    if request.stream_options and not request.stream:
        raise ApiError(400, "stream_options: only where stream is true", "stream_options")
    if prompt is None or isinstance(prompt, str):
        prompts: list[Any] = [prompt or ""]
    else:
        prompts = [prompt] if isinstance(prompt[0], int) else [*prompt]
    if len(prompts) * each > limits.batch:
        param = "n" if each > 1 else "prompt"
        raise ApiError(400, f"{len(prompts)} prompts with {each} texts each: at most {limits.batch} in all", param)
    return prompts, each, longest


def _sampling(request: CompletionRequest) -> Sampling:
    """OpenAI's defaults, and for the extensions those that change nothing."""
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=request.top_k or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
    )


def _read(prompt: str | list[int], model: Loaded, limits: Limits) -> tuple[str, list[int]]:
    """A prompt as text, and as tokens behind the start of a text."""
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


async def events(completing: Completing, pieces: AsyncIterator[Choice]) -> AsyncIterator[str]:
    """The answer as server-sent events; the last is [DONE]."""
    head, options = completing.head, completing.request.stream_options
    wants_usage = options is not None and options.include_usage
    try:
        async for piece in pieces:
            if piece.text or piece.finish_reason or piece.logprobs:
                chunk = head.model_copy(update={"choices": [piece]})
                yield f"data: {chunk.model_dump_json(exclude=None if wants_usage else {'usage'})}\n\n"
                # Lets the connection tell that nobody reads any more, where many pieces wait already.
                await asyncio.sleep(0)
        if wants_usage:
            yield f"data: {head.model_copy(update={'usage': completing.usage()}).model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        raise
    except ApiError as error:
        yield f"data: {error.body()}\n\n"
    finally:
        completing.cancel()
