"""Secrets: which values count, in which forms they are found, and that no Observation holds one."""

from __future__ import annotations

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus

import pytest

from actune.agents.tools.secrets import Secrets, is_secret
from actune.agents.tools.toolbox import Tool, Toolbox
from actune.core.types import ToolCall, ToolSpec

KEY = 'ghp_Abc/123+xyz"ü&'


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("API_KEY", "123456", True),
        ("API_KEY", "12345", False),
        ("GITHUB_PAT", "abcdef", True),
        ("PATH", "/usr/bin:/bin:/home/me/bin", False),
        ("TOKEN_FILE", "/run/secrets/token", True),  # the name decides
        ("DEBUG", "1", False),
        ("PASSWORD", "password", False),
        ("SECRET", "true", False),
        ("NODE_ENV", "production", False),
        ("LEVEL", "Warning", False),
        ("DATE", "2026-11-28 12:00", False),
        ("ACCOUNT", "a8f5f167f44f", True),
        ("BASE", "https://example.org/v1", False),
        ("BASE", "https://me:pw@example.org/v1", True),
        ("BASE", "https://example.org/v1?id=5", True),
        ("MODE", "x1", False),
    ],
)
def test_which_values_count(name, value, secret):
    assert is_secret(name, value) is secret


@pytest.mark.parametrize(
    "write",
    [
        str,
        json.dumps,
        lambda key: json.dumps({"a": key}, ensure_ascii=False),
        lambda key: json.dumps({"inner": json.dumps({"a": key})}),
        repr,
        quote,
        quote_plus,
        lambda key: re.sub("%..", lambda found: found.group().lower(), quote(key, safe="")),
        html.escape,
        lambda key: key.encode().hex(),
        *(lambda key, n=n: base64.b64encode(b"u" * n + key.encode() + b"tail").decode() for n in range(4)),
        lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    ],
)
def test_a_value_is_found_however_it_is_written(write):
    text = f"before {write(KEY)} after"
    redacted = Secrets({"GITHUB_TOKEN": KEY}).redact(text)
    assert "[secret GITHUB_TOKEN]" in redacted
    assert redacted.startswith("before ")
    assert redacted.endswith(" after")
    assert "Abc" not in redacted


def test_values_with_secret_parts():
    secrets = Secrets(
        {
            "Authorization": "Bearer sk-12345678",
            "Proxy-Authorization": "Basic " + base64.b64encode(b"bob:hunter22").decode(),
            "Cookie": "session=abcdef99; theme=dark",
            "DATABASE": "postgres://me:p%40ssw0rd@host/db",
            "url": "https://host/mcp?apiKey=QWERTY9876&page=2",
        }
    )
    secrets.add_arguments(
        ["--api-key", "from-arguments-1", "--token=from-arguments-2", "-e", "MY_SECRET=value3", "--verbose"]
    )
    text = "sk-12345678 hunter22 abcdef99 p@ssw0rd p%40ssw0rd QWERTY9876 from-arguments-1 from-arguments-2 value3"
    assert all(
        word.startswith(("[secret", "Auth", "Prox", "Cook", "DATA", "url", "api", "tok", "MY"))
        for word in secrets.redact(text).split()
    )
    plain = "theme=dark page=2 me host bob --verbose"
    assert secrets.redact(plain) == plain


def test_without_secrets_a_text_is_as_it_was():
    secrets = Secrets()
    assert not secrets
    assert secrets.redact(KEY) == KEY


def test_names_cannot_break_the_text_they_stand_in():
    secrets = Secrets({'my "key"\n]': "abcdef123"})
    line = json.dumps({"text": "abcdef123"})
    assert json.loads(secrets.redact(line)) == {"text": "[secret my_key_]"}


def make_box(function, **settings) -> Toolbox:
    spec = ToolSpec(name="t", parameters={"type": "object"})
    return Toolbox([spec], [Tool(spec=spec, call=function)], secrets=Secrets({"TOKEN": KEY}), **settings)


def test_no_observation_holds_a_secret():
    def fail(_):
        raise ValueError(f"401 for {KEY}")

    call = ToolCall(name="t", arguments="{}")
    assert make_box(lambda _: {"env": KEY}).call(call).text == '{"env": "[secret TOKEN]"}'
    assert make_box(fail).call(call).text == "ValueError: 401 for [secret TOKEN]"


@pytest.mark.parametrize("before", range(80, 121))
def test_a_secret_at_the_cut_is_not_shown_in_part(before):
    text = (
        make_box(lambda _: (KEY + " ") * 3 + "x" * before + KEY * 9, characters=100)
        .call(ToolCall(name="t", arguments="{}"))
        .text
    )
    assert "ghp" not in text
    assert "characters]" in text
