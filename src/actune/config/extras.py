"""Optional packages that a setting needs, found to be missing before any work is done."""

from __future__ import annotations

from importlib.util import find_spec

from actune.config.settings import Settings
from actune.core.errors import MissingExtraError


def require_extras(settings: Settings) -> None:
    """Check that what the settings ask for is installed.

    Raises:
        MissingExtraError: it is not; the message has the command that installs it.
    """
    if settings.tuning.quant_bits:
        require_package("bitsandbytes", extra="qlora", what="a base model in 4 bits")


def require_package(package: str, *, extra: str, what: str) -> None:
    """Check that a package can be imported, without importing it.

    Raises:
        MissingExtraError: it cannot; `what` needs it, and `extra` of actune brings it.
    """
    if find_spec(package) is None:
        raise MissingExtraError(f"{what} needs {package}, which is not installed", fix=f"pip install 'actune[{extra}]'")
