"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from recurlm.errors import InputError
from recurlm.runtime.generator import MAX_STOP_LENGTH, MAX_STOPS
from recurlm.runtime.session import GraphError

log = logging.getLogger("uvicorn.error")

RETRY_AFTER = 1  # seconds
FORMS = {
    "prompt": "a string, a list of strings, a list of token ids, or a list of such lists",
    "stop": f"a string of 1 to {MAX_STOP_LENGTH} characters, or a list of up to {MAX_STOPS}",
}


class ApiError(Exception):
    """A refused request: HTTP status, message, the field at fault, and OpenAI's error code."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def response(self) -> Response:
        headers = {}
        if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers["Retry-After"] = str(RETRY_AFTER)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(self.body(), self.status, headers, media_type="application/json")

    def body(self) -> str:
        """JSON in ASCII: a message may quote lone surrogates, which UTF-8 cannot encode."""
        error = {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}
        return json.dumps({"error": error})


def _type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def busy(what: str) -> ApiError:
    """The error for a full queue."""
    return ApiError(HTTPStatus.TOO_MANY_REQUESTS, f"{what}: try again later", code="rate_limit_exceeded")


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> Response:
        return ApiError(HTTPStatus.BAD_REQUEST, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        return _validation_error(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http_exception(_: Request, error: HTTPException) -> Response:
        response = ApiError(error.status_code, _http_message(error)).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(GraphError)
    async def graph_error(_: Request, error: GraphError) -> Response:
        return _internal_error(error).response()

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        # Starlette raises it again, so it is logged.
        return _internal_error(error, logged=True).response()


def streamed_error(error: Exception) -> ApiError:
    """What a stream that cannot go on ends with."""
    return error if isinstance(error, ApiError) else _internal_error(error)


def _internal_error(error: Exception, logged: bool = False) -> ApiError:
    """The error for what is no fault of the request."""
    if not logged:
        log.error("a request failed", exc_info=error)
    message = str(error) if isinstance(error, GraphError) else f"a bug in recurlm ({type(error).__name__})"
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, message)


def _validation_error(errors: Sequence[Any]) -> ApiError:
    """The first validation error of a body, as one line."""
    first = errors[0]
    where = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} (at character {first['loc'][1]})")
    if not where:
        return ApiError(400, "the body is no JSON object sent as Content-Type: application/json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unrecognized request argument supplied: {'.'.join(where)}", where[0])
    reason = FORMS.get(where[0]) or first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where[0] if where[0] in FORMS else '.'.join(where)}: {reason}", where[0])


def _http_message(error: HTTPException) -> str:
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return "the body is not JSON in UTF-8, or has too large a number or too many brackets in it"
    return str(error.detail)
