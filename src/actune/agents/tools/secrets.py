"""Values that must not leave: API keys, the environment and headers of servers. Found in any text, and named instead.

What counts as a secret, by name and length:

- under a name that says so (key, token, secret, password, auth, cookie ...): every value of 6 characters or more;
- under any other name: a value of 8 characters or more that is no path, no plain address, no number and no plain word.

A value that is written apart, reversed or summarised is not found: this keeps accidents out of traces and logs, it does
not stop a tool that wants to betray a key.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, parse_qsl, quote, quote_plus, unquote, urlsplit

_NAMED_LENGTH = 6
_LENGTH = 8
_NAMES = re.compile(
    r"key|token|secret|passw|pwd|passphrase|pat$|auth|credential|cookie|bearer|private|signature|session|dsn|conn.*str",
    re.IGNORECASE,
)
_COMMON = {"true", "false", "none", "null", "basic", "bearer", "default", "password", "secret", "token", "test", "auto"}
_PLAIN = re.compile(
    r"[+-]?\d[\d.,:_ -]*"  # numbers, dates, versions
    r"|[a-z]+(?:[-_./+ ][a-z]+)*|[A-Z]+(?:[-_./+ ][A-Z]+)*|[A-Z][a-z]+(?: [A-Z]?[a-z]+)*"  # words
    r"|(?:~|\.{1,2})?/.*|[A-Za-z]:[\\/].*"  # paths
)
_SCHEME = re.compile(r"(?:Basic|Bearer|Token|ApiKey|Digest) +", re.IGNORECASE)


class Secrets:
    """Secret values by name; what it is asked to redact comes back with `[secret NAME]` in their places."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """Begin with values by name (each one that counts as a secret, see the module); more can be added."""
        self._names: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        self._longest = 0
        for name, value in (values or {}).items():
            self.add(name, value)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._names)

    @property
    def longest(self) -> int:
        """Characters of the longest form that is looked for."""
        return self._longest

    def add(self, name: str, value: str) -> None:
        """Keep a value out of all texts, where it counts as a secret under this name.

        Of a header value like `Bearer X` also X; of `Basic X` also the password in it; of a cookie each value; of an
        address the password and the values of its query.
        """
        if is_secret(name, value):
            self._add(name, value)
        for part_name, part in _take_apart(name, value):
            if is_secret(part_name, part):
                self._add(name, part)

    def _add(self, name: str, value: str) -> None:
        label = re.sub(r"[^\w.:-]+", "_", name)[:64]
        for form in _write_forms(value):
            self._names.setdefault(form, label)
        self._pattern = None
        self._longest = max(map(len, self._names))

    def add_arguments(self, arguments: Iterable[str]) -> None:
        """Keep values out that a command line names as secrets: `--api-key X`, `--token=X`, `API_KEY=X`."""
        before = ""
        for argument in arguments:
            name, sign, value = argument.lstrip("-").partition("=")
            if sign and _NAMES.search(name):
                self.add(name, value)
            elif (
                before.startswith("-") and "=" not in before and _NAMES.search(before) and not argument.startswith("-")
            ):
                self.add(before.lstrip("-"), argument)
            elif "://" in argument:
                self.add("url", argument)
            before = argument

    def add_all(self, other: Secrets) -> None:
        """Keep out what another one keeps out."""
        for form, label in other._names.items():
            self._names.setdefault(form, label)
        self._pattern = None
        self._longest = max(self._longest, other._longest)

    def redact(self, text: str) -> str:
        """Return a text without the values: as they are, and as JSON, URLs, HTML and base64 write them."""
        if not self._names:
            return text
        if self._pattern is None:
            forms = sorted(self._names, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, forms)))
        return self._pattern.sub(lambda match: f"[secret {self._names[match.group()]}]", text)


def is_secret(name: str, value: str) -> bool:
    """Return whether a value counts as a secret under a name; see the module."""
    value = value.strip()
    if value.lower() in _COMMON:
        return False
    if _NAMES.search(name):
        return len(value) >= _NAMED_LENGTH
    if len(value) < _LENGTH or _PLAIN.fullmatch(value):
        return False
    address = _read_address(value)
    return address is None or bool(address.password or address.query)


def _take_apart(name: str, value: str) -> list[tuple[str, str]]:
    """Return the secret parts of a value, each under the name that says how much it is one."""
    parts: list[tuple[str, str]] = []
    scheme = _SCHEME.match(value)
    if scheme is not None:
        token = value[scheme.end() :].strip()
        parts.append(("token", token))
        if scheme.group().lower().startswith("basic"):
            parts.append(("password", _decode(token).partition(":")[2]))
    if "cookie" in name.lower():
        parts += [("cookie", cookie.partition("=")[2].strip()) for cookie in value.split(";")]
    address = _read_address(value)
    if address is not None:
        query = parse_qsl(address.query)
        parts += [("password", part) for part in (address.password, unquote(address.password or "")) if part]
        parts += [(key, part) for key, part in query]
    return parts


def _read_address(value: str) -> SplitResult | None:
    if "://" not in value:
        return None
    try:
        return urlsplit(value)
    except ValueError:
        return None


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), validate=True).decode("utf-8")
    except ValueError:
        return ""


def _write_forms(value: str) -> set[str]:
    """Return the ways in which a value may stand in a text."""
    value = value.strip()
    raw = value.encode("utf-8", "surrogatepass")
    urls = {quote(value, safe=safe, errors="replace") for safe in ("", "/")} | {quote_plus(value, errors="replace")}
    forms = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    forms |= {json.dumps(form)[1:-1] for form in tuple(forms)}  # JSON within JSON
    forms |= {html.escape(value), html.escape(value, quote=False), raw.hex(), raw.hex().upper()}
    forms |= urls | {re.sub(r"%..", lambda match: match.group().lower(), url) for url in urls}
    # Within a longer text in base64 a value looks different at each of the three offsets; the letters at both ends mix
    # with its neighbours and are left out.
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * offset + raw).decode("ascii").rstrip("=")
            inner = text[-(-8 * offset // 6) : (offset + len(raw)) * 8 // 6]
            if len(inner) >= 5:
                forms.add(inner)
    return forms
