"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware import Middleware

from recurlm import __version__
from recurlm.serving import schema
from recurlm.serving.completing import Completing, events
from recurlm.serving.errors import ApiError, answer_errors
from recurlm.serving.gate import Counted, Keyed, Limited
from recurlm.serving.loaded import Loaded, Workers, choose
from recurlm.serving.measures import Measures
from recurlm.serving.openapi import describe
from recurlm.serving.scoring import fill, score
from recurlm.serving.settings import Settings

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
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def create_app(settings: Settings, models: dict[str, Loaded], measures: Measures) -> FastAPI:
    """The application, with models that are loaded already."""
    workers, fillers = Workers(settings.limits.queue), Workers(settings.limits.queue)
    engines = [model.engine for model in models.values() if model.engine]

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        for engine in engines:
            engine.start(asyncio.get_running_loop())
        yield
        for engine in engines:
            engine.close()
        workers.close()
        fillers.close()

    middleware = [Middleware(Counted, measures=measures)]
    security = []
    if settings.api_key is not None:
        middleware.append(Middleware(Keyed, key=settings.api_key))
        # Keyed asks for it; this only tells so in /openapi.json.
        security.append(Security(HTTPBearer(auto_error=False)))
    middleware.append(Middleware(Limited, most=settings.limits.body_bytes))
    app = FastAPI(
        title="recurlm",
        version=__version__,
        lifespan=running,
        middleware=middleware,
        docs_url=None,  # it would load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    answer_errors(app)
    router = APIRouter(dependencies=security, responses=REFUSED, redirect_slashes=False)

    @router.post("/v1/completions", response_model=schema.Completion, responses=STREAMED)
    async def complete(request: schema.CompletionRequest, http: Request) -> Any:
        """Go on from a prompt, or several."""
        model = choose(models, request.model, "generate")
        assert model.engine is not None
        completing = await asyncio.to_thread(Completing, request, model, settings.limits, workers)
        if request.stream:
            pieces = events(completing, completing.submit(model.engine))
            return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return await _while_wanted(http, completing.whole(model.engine))

    @router.get("/v1/models")
    async def list_models() -> schema.ModelList:
        """The models, by the names that requests give."""
        return schema.ModelList(data=[model.describe() for model in models.values()])

    @router.get("/v1/models/{model}")
    async def get_model(model: str) -> schema.Model:
        """One of them."""
        if model not in models:
            raise ApiError(404, f"there is no model '{model}'", "model", "model_not_found")
        return models[model].describe()

    @router.post("/score")
    async def score_text(request: schema.ScoreRequest) -> schema.ScoreAnswer:
        """How likely a model finds a text, each token given those before it (or, of a cloze model, around it)."""
        model = choose(models, request.model, "score")
        return await workers.run(lambda: score(request, model, settings.limits))

    @router.post("/fill")
    async def fill_text(request: schema.FillRequest) -> schema.FillAnswer:
        """Put a word in place of each ___."""
        model = choose(models, request.model, "fill")
        return await fillers.run(lambda: fill(request, model, settings.limits))

    @router.get("/metrics", response_class=Response, responses=TEXT)
    async def metrics() -> Response:
        """In Prometheus' form."""
        return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)

    app.include_router(router)

    @app.get("/health", responses={503: {"model": schema.Error, "description": "A model no longer answers."}})
    async def health() -> schema.Health:
        """Whether every model answers; needs no API key."""
        dead = [model.name for model in models.values() if model.engine and not model.engine.alive()]
        if dead:
            raise ApiError(503, f"no longer answering: {', '.join(dead)}")
        return schema.Health(models=list(models))

    describe(app, settings.limits, models)
    return app


async def _while_wanted(http: Request, work: Coroutine[Any, Any, schema.Completion]) -> Any:
    """The result of `work`, which ends early if whoever asked has gone."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        # Nobody reads the other answer; 499 is what nginx notes for it.
        return await working if working.done() else Response(status_code=499)
    finally:
        working.cancel()
        gone.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
