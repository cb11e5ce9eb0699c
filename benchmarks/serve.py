"""Concurrent clients of `actune serve`: are all answers those of a client alone, does memory stay, how fast is it?

    python benchmarks/serve.py --model runs/demo --rows runs/demo/data/seen_tools.jsonl --clients 1 8 32 --rounds 4

Starts the server on a free port, asks each row's first question with its tools, alone first, then from N clients at a
time, half of them streaming, half of them asking the base, and follows a call up with an observation. Prints answers
that differ, errors, tokens a second, and the memory of the server's process (PSS) after every round. `--server "COMMAND"`
measures another OpenAI-compatible server, with `--url` and `--names`; its answers are compared with its own alone.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

from actune.core import api_list


def read_questions(path: Path, count: int) -> list[dict]:
    questions = []
    for line in path.read_text(encoding="utf-8").splitlines()[:count]:
        turns = json.loads(line)["conversations"]
        block = api_list.read_system(turns[0]["value"])
        assert block is not None
        tools = [tool.describe() for tool in block.tools]
        questions.append({"messages": [{"role": "user", "content": turns[1]["value"]}], "tools": tools})
    return questions


def start(command: list[str]) -> tuple[subprocess.Popen[str], str]:
    """Start the server; returns it and its address."""
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"(http://\S+)/v1\b", line):
            return server, found.group(1)
    sys.exit(f"the server ended: {server.wait()}")


def read_memory(pid: int) -> float:
    """Return the proportional set size in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE).group(1)) / 1024  # type: ignore[union-attr]


def ask(client: openai.OpenAI, model: str, question: dict, *, stream: bool, limit: int) -> tuple[list, int]:
    """Return (what was answered, in comparable form, over both turns; sampled tokens)."""
    messages, found, tokens = list(question["messages"]), [], 0
    for _ in range(2):
        given = {
            "model": model,
            "messages": messages,
            "tools": question["tools"],
            "max_tokens": limit,
            "temperature": 0,
        }
        if stream:
            with client.chat.completions.stream(**given, stream_options={"include_usage": True}) as events:
                for _ in events:
                    pass
                answer = events.get_final_completion()
        else:
            answer = client.chat.completions.create(**given)
        message = answer.choices[0].message
        tokens += answer.usage.completion_tokens if answer.usage else 0
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        found.append([message.content or "", calls, answer.choices[0].finish_reason])
        if not calls:
            break
        messages += [message.model_dump(exclude_none=True)]
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": '{"status": "done", "code": "AB123"}'}
            for call in message.tool_calls
        ]
    return found, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--rows", type=Path, default=Path("runs/demo/data/seen_tools.jsonl"))
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--max_tokens", type=int, default=96)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--server", help="Command of another server, used with --url and --names.")
    parser.add_argument("--url")
    parser.add_argument("--names", nargs="+", default=[])
    given = parser.parse_args()
    command = [sys.executable, "-m", "actune", "serve", "--model", given.model, "--port", "0"]
    command += ["--concurrency", str(given.concurrency), "--queue", "256"]
    if given.server:
        server, address = subprocess.Popen(shlex.split(given.server)), given.url.removesuffix("/v1")
    else:
        server, address = start(command)
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
    wait_until_up(client)
    names = given.names or [model.id for model in client.models.list()]
    questions = read_questions(given.rows, given.questions)
    jobs = [(names[number % len(names)], question) for number, question in enumerate(questions)]
    try:
        started = time.perf_counter()
        alone = [ask(client, *job, stream=False, limit=given.max_tokens) for job in jobs]
        seconds = time.perf_counter() - started
        total = sum(tokens for _, tokens in alone)
        calls = sum(bool(turns[0][1]) for turns, _ in alone)
        print(f"{len(jobs)} questions alone: {total / seconds:.0f} tokens/s, {calls} begin with a call, models {names}")
        print(f"memory {read_memory(server.pid):.0f} MB")
        for count in given.clients:
            for number in range(given.rounds):
                measure(client, jobs, alone, count=count, seed=number, limit=given.max_tokens)
                print(f"   memory {read_memory(server.pid):.0f} MB", flush=True)
    finally:
        server.terminate()
        print(f"the server ended with {server.wait(60)}")


def wait_until_up(client: openai.OpenAI) -> None:
    for _ in range(600):
        try:
            client.models.list()
        except openai.APIConnectionError:
            time.sleep(0.1)
        except openai.APIStatusError:
            return
        else:
            return


def measure(client: openai.OpenAI, jobs: list, alone: list, *, count: int, seed: int, limit: int) -> None:
    """Ask every job once, from `count` clients at a time, in another order each time; print what came of it."""
    order = list(range(len(jobs)))
    random.Random(seed).shuffle(order)
    errors: list[str] = []

    def run(place: int) -> tuple[int, list, int]:
        index = order[place]
        try:
            return index, *ask(client, *jobs[index], stream=place % 2 == 0, limit=limit)
        except openai.OpenAIError as error:
            errors.append(f"{type(error).__name__}: {error}"[:200])
            return index, [], 0

    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(run, range(len(order))))
    seconds = time.perf_counter() - started
    other = [index for index, found, _ in results if found and found != alone[index][0]]
    tokens = sum(tokens for *_, tokens in results)
    print(
        f"{count} clients, round {seed + 1}: {tokens / seconds:.0f} tokens/s, {len(errors)} errors, "
        f"{len(other)} answers unlike those alone"
    )
    for error in sorted(set(errors)):
        print(f"   {error}")


if __name__ == "__main__":
    main()
