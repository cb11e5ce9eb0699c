"""Serve an export of a run by transformers' own server, and count the calls that arrive as `tool_calls`.

    pip install 'transformers[serving]' openai
    python benchmarks/transformers_serve.py --model runs/demo --rows runs/demo/data/seen_tools.jsonl --count 8

The server has no part of actune: it reads the exported tokenizer's chat template and `response_template`.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from actune.data.reading.sources import load_conversations


def wait_for(port: int, server: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    """Wait until the server listens; raises SystemExit where it ends before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit("transformers serve ended; is transformers[serving] installed?")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise SystemExit("transformers serve does not listen")


def main() -> None:
    """Print what arrives of each row, whole and streamed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run folder")
    parser.add_argument("--rows", required=True, help="conversations whose first answer is a call")
    parser.add_argument("--count", type=int, default=8)
    given = parser.parse_args()
    from openai import OpenAI

    with tempfile.TemporaryDirectory() as scratch, socket.socket() as free:
        folder = Path(scratch) / "merged"
        subprocess.run(
            [sys.executable, "-m", "actune", "export", "--model", given.model, "--to", "merged", "--out", str(folder)],
            check=True,
        )
        react = folder / "react_template.jinja"
        stops = ["Observation:"] if react.is_file() else None
        if react.is_file():  # ReAct prompts of training from OpenAI's tools
            shutil.copyfile(react, folder / "chat_template.jinja")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = "from transformers.cli.transformers import main; main()"
        flags = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        server = subprocess.Popen([sys.executable, "-c", command, *flags])
        try:
            wait_for(port, server)
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300)
            rows = load_conversations(given.rows, format_name=None, seed=0).conversations[: given.count]
            arrived = right = streamed = 0
            for row in rows:
                place = next(n for n, message in enumerate(row.messages) if message.role == "assistant")
                asked = [{"role": one.role, "content": one.content} for one in row.messages[:place]]
                options = {
                    "model": str(folder),
                    "messages": asked,
                    "tools": [tool.describe() for tool in row.tools],
                    "max_tokens": 128,
                    "temperature": 0,
                    "stop": stops,
                }
                message = client.chat.completions.create(**options).choices[0].message
                calls = message.tool_calls or []
                arrived += bool(calls)
                right += [one.function.name for one in calls] == [one.name for one in row.messages[place].tool_calls]
                pieces = [chunk.choices[0].delta for chunk in client.chat.completions.create(**options, stream=True)]
                streamed += any(piece.tool_calls for piece in pieces)
                print([(one.function.name, one.function.arguments) for one in calls] or repr(message.content)[:100])
            print(f"{len(rows)} rows: {arrived} as tool_calls, {streamed} streamed, {right} of the tool in the row")
        finally:
            server.terminate()
            server.wait(timeout=30)


if __name__ == "__main__":
    main()
