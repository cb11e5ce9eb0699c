"""What goes wrong with a request, in the shape of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.errors import ActuneError, DataError, RenderError

# HTTP status -> OpenAI's `type`.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """A request that is answered with an error: HTTP status, message, the parameter at fault and a stable code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Store what the client is told; nothing of it may hold a secret or another client's text."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_value(param: str, what: str, *, code: str = "invalid_value") -> ApiError:
    """Return the error for a parameter that cannot be what it is; `what` goes on after its name."""
    return ApiError(400, f"{param} {what}", code=code, param=param)


def unsupported(param: str, why: str) -> ApiError:
    """Return the error for a parameter that this server cannot follow and must not ignore."""
    return bad_value(param, f"is not supported: {why}", code="unsupported_parameter")


def from_actune(error: ActuneError, *, param: str | None = "messages") -> ApiError:
    """Return what a client is told of an error of a conversation or of the model."""
    if isinstance(error, (DataError, RenderError)):
        message = error.message if error.fix is None else f"{error.message} ({error.fix})"
        return ApiError(400, message, code=error.code.replace("-", "_"), param=error.field or param)
    return ApiError(500, error.message, code="model_error")
