"""`actune serve` as a user calls it, and a real engine behind it: many clients of two models at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from actune.agents.engines.engine import Request
from actune.agents.engines.loading import load_engine
from actune.cli.main import main
from actune.core.types import Conversation, Message, Source
from actune.modeling.adapters import attach_adapter, save_adapter
from actune.modeling.load import load_model
from actune.render.encoder import Encoder
from actune.serving.server import bind

openai = pytest.importorskip("openai")
KEY, SECRET = "ACTUNE_TEST_KEY", "a-key-of-the-tests"


def start(model: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "actune", "serve", "--model", str(model), "--port", "0", *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, KEY: SECRET})
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"OpenAI API +(http://127\.0\.0\.1:[1-9]\d*)/v1", line):
            return server, found.group(1)
    pytest.fail(f"the server ended with {server.wait()}")


def test_the_command_serves_until_it_is_told_to_end(model: Path):
    server, address = start(model, "--api_key_env", KEY)
    try:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=SECRET, max_retries=0, timeout=30)
        assert [one.id for one in client.models.list()] == [model.name]
        messages = [{"role": "user", "content": "a private question"}]
        answer = client.chat.completions.create(model=model.name, messages=messages, max_tokens=5)
        assert answer.usage.completion_tokens <= 5
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=30)
    finally:
        server.kill()
    assert server.returncode == 0
    assert "completion 200" in errors
    assert SECRET not in errors
    assert "private" not in errors


def test_what_is_wrong_is_said_before_the_model_is_loaded(model: Path, capsys, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    with bind("127.0.0.1", 0) as taken:
        cases = [
            (["--port", str(taken.getsockname()[1])], "is in use"),
            (["--host", "0.0.0.0"], "there is no API key"),
            (["--api_key_env", KEY], f"{KEY} of --api_key_env holds no API key"),
            (["--concurrency", "0"], "concurrency is 0"),
            (["--port", "70000"], "port is 70000"),
            (["--allow_origin", "example.com"], "is no origin"),
            (["--port", "0", "--base"], "--base leaves the adapter out"),
        ]
        for flags, message in cases:
            assert main(["serve", "--model", str(model), *flags]) == 2
            assert message in " ".join(capsys.readouterr().err.split())


def test_many_clients_of_two_models_get_what_one_alone_gets(
    serving_kit: ModuleType, model: Path, tmp_path: Path, one_thread
):
    import torch

    base = load_model(model, dtype=torch.float32, device=torch.device("cpu"), trust_remote_code=False)
    tuned = attach_adapter(base, modules=["q_proj", "v_proj"], rank=4, alpha=64, dropout=0.0, seed=1)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    save_adapter(tuned, tmp_path / "adapter")
    engine = load_engine(model, tmp_path / "adapter", dtype="fp32", batch_size=6)
    encoder = Encoder.from_folder(model)
    expected = {}
    for number in range(16):
        messages = (Message(role="user", content=f"question {number}"),)
        row = Conversation(messages=messages, source=Source(file="x", line=1))
        dialect = encoder.dialect_of(row)
        ids = encoder.renderer.tokenizer.encode(dialect.prompt(row, 1))
        request = Request(prompt=ids, stops=dialect.stops(), max_tokens=12)
        expected[number, "tuned"] = engine.generate([request])[0].text
        with engine.without_adapter():
            expected[number, "tuned-base"] = engine.generate([request])[0].text
    assert sum(expected[number, "tuned"] != expected[number, "tuned-base"] for number in range(16)) > 8
    bench = serving_kit.Bench(model, [], engine=engine)
    with serving_kit.on_a_socket(bench) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0, timeout=60)

        def ask(case: tuple[int, str]) -> str:
            given = {
                "model": case[1],
                "messages": [{"role": "user", "content": f"question {case[0]}"}],
                "max_tokens": 12,
            }
            if case[0] % 2:
                pieces = client.chat.completions.create(**given, stream=True)
                return "".join(piece.choices[0].delta.content or "" for piece in pieces)
            return client.chat.completions.create(**given).choices[0].message.content

        with ThreadPoolExecutor(32) as pool:
            found = dict(zip(expected, pool.map(ask, expected), strict=True))
    bench.close()
    assert found == expected
