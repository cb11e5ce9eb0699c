"""Every error that actune raises on purpose.

```text
ActuneError                 exit code 1 unless noted
├── ConfigError(ValueError)      a setting, flag, file name or folder is wrong         exit code 2
├── DataError(ValueError)        a row cannot be read, parsed or trained on
├── RenderError(ValueError)      a conversation cannot be expressed by a template
├── ModelError(RuntimeError)     a model, adapter or tokenizer cannot be used
├── TrainingError(RuntimeError)  training cannot go on
├── CheckpointError(RuntimeError) a checkpoint cannot be written or read
└── MissingExtraError(ImportError) an optional package is not installed               exit code 2
```
A message says what, where, why, and what to do. `assert` is for our own bugs only.
"""

from __future__ import annotations


class ActuneError(Exception):
    """Base of all errors raised on purpose; carries the process exit code."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        """Store `message` (what, where, why) and `fix` (what to do), both shown to the user."""
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return self.message if self.fix is None else f"{self.message}\n  fix: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by `args`, which does not know keyword-only parameters; worker processes need this.
        return (_rebuild, (type(self), self.message, self.fix, dict(self.__dict__)))


def _rebuild(kind: type[ActuneError], message: str, fix: str | None, state: dict[str, object]) -> ActuneError:
    error = kind.__new__(kind)
    ActuneError.__init__(error, message, fix=fix)
    error.__dict__.update(state)
    return error


class ConfigError(ActuneError, ValueError):
    """A setting, flag, file name or folder is wrong; nothing was started."""

    exit_code = 2


class DataError(ActuneError, ValueError):
    """A row cannot be read, parsed or trained on.

    `code` is a stable short name (listed in docs/checks.md), `field` the place inside the row (`messages[2].content`).
    """

    def __init__(self, message: str, *, code: str, field: str | None = None, fix: str | None = None) -> None:
        """Store what is wrong, its stable `code`, where in the row (`field`), and what to do (`fix`)."""
        super().__init__(message, fix=fix)
        self.code = code
        self.field = field


class RenderError(ActuneError, ValueError):
    """A conversation cannot be expressed by a chat template or dialect without a loss."""

    def __init__(self, message: str, *, code: str, field: str | None = None, fix: str | None = None) -> None:
        """Store what is lost, its stable `code`, where in the conversation (`field`), and what to do (`fix`)."""
        super().__init__(message, fix=fix)
        self.code = code
        self.field = field


class ModelError(ActuneError, RuntimeError):
    """A model, adapter or tokenizer cannot be loaded or does not fit the request."""


class TrainingError(ActuneError, RuntimeError):
    """Training cannot start or go on."""


class CheckpointError(ActuneError, RuntimeError):
    """A checkpoint cannot be written or read."""


class MissingExtraError(ActuneError, ImportError):
    """An optional package is needed; the message prints the install command."""

    exit_code = 2
