"""How many assistant turns of a reasoning trajectory are trained on exactly the prompt and target of inference.

    python benchmarks/exact_turns.py --model DIR     # a folder with tokenizer and chat template, no weights

Two rounds, five assistant turns with reasoning, one with text beside its call, arguments with true, false and null. What
is wanted of each turn comes from `tokenizer.apply_chat_template` alone: the prompt for the messages before it, and the
text that the template adds for it, up to and including the end of the turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from actune.data.reading.sources import load_conversations
from actune.render.encoder import Encoder
from actune.render.tree import TokenTree


def call(number: int, name: str, arguments: dict) -> dict:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Ask the {name} service.",
            "parameters": {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}},
        },
    }
    for name, properties in {
        "weather": {"city": ["string", "null"], "detail": "boolean", "metric": "boolean"},
        "route": {"start": "string", "goal": "string"},
    }.items()
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is the weather in Shanghai, and how do I get there from Beijing?"},
    {"role": "assistant", "reasoning_content": "First the weather.", "content": "I look at Shanghai.", "tool_calls": [call(1, "weather", {"city": "Shanghai", "detail": True, "metric": None})]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "rain"}'},
    {"role": "assistant", "reasoning_content": "Now the route.", "content": "", "tool_calls": [call(2, "route", {"start": "Beijing", "goal": "Shanghai"})]},
    {"role": "tool", "tool_call_id": "call_2", "content": '{"hours": 4.5}'},
    {"role": "assistant", "reasoning_content": "Both are known.", "content": "Rain; four and a half hours by train."},
    {"role": "user", "content": "And here?"},
    {"role": "assistant", "reasoning_content": "The place is not said.", "content": "", "tool_calls": [call(3, "weather", {"city": None, "detail": False})]},
    {"role": "tool", "tool_call_id": "call_3", "content": '{"sky": "sun"}'},
    {"role": "assistant", "reasoning_content": "Done.", "content": "Sunny."},
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    model = parser.parse_args().model
    tokenizer = AutoTokenizer.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.jsonl"
        path.write_text(json.dumps({"tools": TOOLS, "messages": MESSAGES}) + "\n", encoding="utf-8")
        (row,) = load_conversations(str(path)).conversations
    encoder = Encoder.from_folder(model, dialect="chat")
    tree = encoder.encode(row)
    steps = trained_steps(tree)

    def render(messages: list[dict], *, prompt: bool) -> str:
        return tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False, add_generation_prompt=prompt)

    exact = turns = 0
    for index, message in enumerate(MESSAGES):
        if message["role"] != "assistant":
            continue
        turns += 1
        prompt, whole = render(MESSAGES[:index], prompt=True), render(MESSAGES[: index + 1], prompt=False)
        end = tokenizer.eos_token
        target = whole[len(prompt) :]
        target = target[: target.index(end) + len(end)]
        wanted = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, prompt + target)]
        exact += is_exact(steps, wanted[0], wanted[1][len(wanted[0]) :])
    unrolled = sum(len(turn.ids) for turn in encoder.encode_turns(row))
    print(f"turns exact: {exact} of {turns}; tokens laid out {len(tree.input_ids)}, as single sequences {unrolled}")


def trained_steps(tree: TokenTree) -> set[tuple[tuple[int, ...], int]]:
    """Return (all that is seen, the token to predict) of every target."""
    ids, end = tree.input_ids.tolist(), tree.end.tolist()
    steps = set()
    for position, token in zip(tree.target_positions.tolist(), tree.target_ids.tolist(), strict=True):
        steps.add((tuple(ids[k] for k in range(position + 1) if position < end[k]), token))
    return steps


def is_exact(steps: set[tuple[tuple[int, ...], int]], prompt: list[int], target: list[int]) -> bool:
    """Tell whether a target is trained behind its prompt, wholly, and nothing before and behind it in that text."""
    text = (*prompt, *target)
    inside = all((text[:k], text[k]) in steps for k in range(len(prompt), len(text)))
    before = any((text[: len(prompt) - 1], prompt[-1]) == step for step in steps)
    behind = any(seen == text for seen, _ in steps)
    return inside and not before and not behind


if __name__ == "__main__":
    main()
