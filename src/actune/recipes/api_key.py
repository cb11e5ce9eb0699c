"""An API key comes from an environment variable that a flag names, never from the command line itself."""

from __future__ import annotations

import os

from actune.core.errors import ConfigError


def read_api_key(variable: str | None) -> str | None:
    """Return the key in a variable, None where none is named.

    Raises:
        ConfigError: the variable is not set, or holds no key: a header cannot carry blanks and other scripts.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or any(letter.isspace() for letter in key):
        why = "it holds blanks, or signs that no header can" if key else "it is not set"
        raise ConfigError(
            f"the environment variable {variable} of --api_key_env holds no API key: {why}",
            fix=f"set it: export {variable}=... (letters, digits and signs, no blanks); or leave the flag out",
        )
    return key
