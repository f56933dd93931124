"""The FastAPI application and its routes; what /score and /fill do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware import Middleware

from recurlm import __version__
from recurlm.runtime.filler import MARKER, MAX_WORD_TOKENS
from recurlm.serving import schema
from recurlm.serving.completions import CompletionJob, token_text
from recurlm.serving.exceptions import ApiError, add_error_handlers
from recurlm.serving.middleware import ApiKey, BodyLimit, Metrics, RequestMetrics
from recurlm.serving.models import LoadedModel, choose_model
from recurlm.serving.reading import Reading
from recurlm.serving.settings import SMALL_TOKENS, Limits, Settings
from recurlm.serving.workers import Worker

REFUSED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schema.Error, "description": "Refused, and why: try a 429 again later."}
}
EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A Completion as JSON, or [DONE]."}},
    "required": ["data"],
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"itemSchema": EVENT}},
        "description": "The completion, or with `stream` its pieces, each as `data: {…}`, and `data: [DONE]`.",
    }
}
READ = ["GET", "HEAD"]
# The size up to which a request waits for no larger one: characters to encode, tokens to score, tokens read to fill.
SMALL = {"encoding": 1024, "scoring": SMALL_TOKENS, "filling": 1024}
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def create_app(settings: Settings, models: dict[str, LoadedModel], metrics: Metrics) -> FastAPI:
    """The application, for models that are loaded already."""
    encoding, scoring, filling = (Worker(name, settings.limits.max_queue, small) for name, small in SMALL.items())
    engines = [model.engine for model in models.values() if model.engine]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for engine in engines:
            engine.start(asyncio.get_running_loop())
        yield
        for engine in engines:
            engine.close()
        for worker in (encoding, scoring, filling):
            worker.close()

    middleware = [Middleware(RequestMetrics, metrics=metrics)]
    security = []
    if settings.api_key is not None:
        middleware.append(Middleware(ApiKey, key=settings.api_key))
        # ApiKey checks it; this only says so in /openapi.json.
        security.append(Security(HTTPBearer(auto_error=False)))
    middleware.append(Middleware(BodyLimit, max_bytes=settings.limits.max_body_bytes))
    app = FastAPI(
        title="recurlm",
        version=__version__,
        lifespan=lifespan,
        middleware=middleware,
        docs_url=None,  # it would load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    add_error_handlers(app)
    router = APIRouter(dependencies=security, responses=REFUSED, redirect_slashes=False)

    @router.post("/v1/completions", response_model=schema.Completion, responses=STREAMED)
    async def complete(request: schema.CompletionRequest, http: Request) -> Any:
        """Continue one or several prompts."""
        model = choose_model(models, request.model, "generate")
        assert model.engine is not None
        work = partial(CompletionJob, request, model, settings.limits, scoring)
        job = await encoding.run(work, _size_of_prompt(request))
        if request.stream:
            events = job.events(job.submit(model.engine))
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        answer = await _until_disconnected(http, job.completion(model.engine))
        return Response(answer, media_type="application/json") if isinstance(answer, str) else answer

    @router.get("/v1/models")
    async def list_models() -> schema.ModelList:
        """The models, by the names that requests use."""
        return schema.ModelList(data=[model.describe() for model in models.values()])

    @router.get("/v1/models/{model}")
    async def get_model(model: str) -> schema.Model:
        """One model."""
        if model not in models:
            raise ApiError(404, f"there is no model '{model}'", "model", "model_not_found")
        return models[model].describe()

    @router.post("/score", response_model=schema.ScoreResponse)
    async def score_text(request: schema.ScoreRequest, http: Request) -> Any:
        """A text's log-likelihood, each token given those before it (or, by a cloze model, those on both sides)."""
        model = choose_model(models, request.model, "score")
        size = await encoding.run(partial(score_tokens, request, model, settings.limits), len(request.text))
        return await _until_disconnected(http, scoring.run(partial(score, request, model), size))

    @router.post("/fill", response_model=schema.FillResponse)
    async def fill_text(request: schema.FillRequest, http: Request) -> Any:
        """Mask filling: a word in place of each ___."""
        model = choose_model(models, request.model, "fill")
        work = await encoding.run(lambda: fill_work(request, model, settings.limits), len(request.text))
        reading = Reading(settings.limits.fill_reading)
        try:
            return await _until_disconnected(http, filling.run(partial(fill, request, model, reading), work))
        finally:
            reading.stop()

    @router.get("/metrics", response_class=Response, responses=TEXT)
    async def get_metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @router.api_route("/", methods=READ, include_in_schema=False)
    @router.api_route("/docs", methods=READ, include_in_schema=False)
    async def hint() -> schema.Hint:
        return schema.Hint()

    @router.api_route("/v1/chat/completions", methods=[*READ, "POST"], include_in_schema=False)
    async def no_chat() -> None:
        hint = "these models continue a text and do not chat: POST /v1/completions, with prompt in place of messages"
        raise ApiError(404, hint, code="unknown_url")

    app.include_router(router)

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses={503: {"model": schema.Error, "description": "A model no longer answers."}})
    async def health() -> schema.Health:
        """Whether every model's thread runs; needs no API key."""
        dead = [model.name for model in models.values() if model.engine and not model.engine.alive()]
        if dead:
            raise ApiError(503, f"no longer answering: {', '.join(dead)}")
        return schema.Health(models=list(models))

    schema.describe(app, settings.limits, {name: model.bundle for name, model in models.items()})
    return app


def _size_of_prompt(request: schema.CompletionRequest) -> int:
    """An upper bound of its tokens, nearly: of its characters, or of what its lists hold."""
    prompt = request.prompt or ""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return len(prompt)
    return sum(map(len, prompt))


async def _until_disconnected(http: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, which is cancelled if the client disconnects."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        # Nobody reads the other answer; 499 is nginx's status for it.
        return await working if working.done() else Response(status_code=499)
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def score_tokens(request: schema.ScoreRequest, model: LoadedModel, limits: Limits) -> int:
    """The number of tokens that are to be scored.

    Raises:
        ApiError, InputError: they are too many, or the text has lone surrogates.
    """
    model.check_length(request.text, "text", limits)
    size = len(model.bundle.vocabulary.ids(request.text, "the text"))
    if size > limits.max_prompt_tokens:
        raise ApiError(400, f"text: {size} tokens, at most {limits.max_prompt_tokens}", "text")
    return size


def score(request: schema.ScoreRequest, model: LoadedModel) -> schema.ScoreResponse:
    """Score a text."""
    vocabulary = model.bundle.vocabulary
    scored: list[schema.ScoredToken] = []

    def on_tokens(tokens: Sequence[int], log_probs: Any) -> None:
        for token, log_prob in zip(tokens, log_probs.tolist(), strict=True):
            scored.append(schema.ScoredToken(token=token_text(token, vocabulary), id=token, log_prob=log_prob))

    score = model.scorer.score(request.text, on_tokens if request.tokens else None)
    # In the response, only the protocol says that a cloze model's are pseudo-likelihoods.
    metrics = {name.removeprefix("pseudo_"): value for name, value in score.metrics().items()}
    return schema.ScoreResponse.model_validate(
        {"model": model.name, **metrics, "token_log_probs": scored if request.tokens else None}
    )


def fill_work(request: schema.FillRequest, model: LoadedModel, limits: Limits) -> int:
    """The tokens that are read to fill a text, where those sampled first can stand there.

    Raises:
        ApiError, InputError: they are too many, or the text has lone surrogates.
    """
    model.check_length(request.text, "text", limits)
    vocabulary, words = model.bundle.vocabulary, len(MARKER.findall(request.text))
    largest = request.max_mask_tokens or MAX_WORD_TOKENS[vocabulary.kind]
    size = len(vocabulary.ids(request.text, "the text")) + words * largest
    # Each length of each word is tried, token by token, and then all are filled.
    work = size * words * largest * (largest + 3) // 2
    if work > limits.fill_work:
        raise ApiError(
            400,
            f"text: {size} tokens with {words} masks of up to {largest} tokens are too much: fill it in parts",
            "text",
        )
    return work


def fill(request: schema.FillRequest, model: LoadedModel, reading: Reading) -> schema.FillResponse:
    """Fill the masks of a text.

    Raises:
        ApiError: more is read than may be, or the client has gone.
        InputError: it has no `___`, or something that the vocabulary lacks.
    """
    assert model.filler is not None
    filled = reading.of(model.filler).fill(
        request.text, request.temperature, request.top_k, request.top_p, request.seed, request.max_mask_tokens
    )
    return schema.FillResponse(model=model.name, text=filled)
