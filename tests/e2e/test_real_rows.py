"""Real rows, judged by an oracle that shares no code with actune: raw row -> expected bytes and trained byte spans."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from actune.core.errors import DataError
from actune.data.reading.sources import load_conversations
from actune.formats import registry
from actune.render.encoder import Encoder

pytestmark = pytest.mark.shared
MALFORMED = {112, 1144}  # an Action without Action Input, seen by eye


@pytest.fixture(scope="module")
def doraemon(shared: Path) -> Path:
    return shared / "data" / "agent" / "doraemon_msagent.jsonl"


def byte_alphabet() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE (GPT-2): printable bytes stand for themselves, others from 256 up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def expected(raw: dict) -> tuple[bytes, list[tuple[int, int]]]:
    """The ChatML bytes of a raw one-turn row, and the spans that may be trained: the answer without observations."""
    system, user, answer = (part["value"] for part in raw["conversations"])
    head = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    spans, start = [], 0
    # From outside come " " + observation + "\n", up to the next line that begins a step.
    for match in re.finditer(r"(?ms)^Observation:(.*?\n)(?=Thought:|Action:|Final Answer:)", answer):
        spans.append((start, match.start(1)))
        start = match.end(1)
    text = answer + "<|im_end|>"
    spans.append((start, len(text)))
    offset = len(head.encode())
    return (head + text).encode(), [
        (offset + len(text[:a].encode()), offset + len(text[:b].encode())) for a, b in spans
    ]


def token_bytes(encoder: Encoder) -> list[bytes]:
    tokenizer = encoder.renderer.tokenizer
    alphabet = byte_alphabet()
    table = []
    for number in range(151_669):
        text = tokenizer.token_text(number)
        special = text.startswith("<") and text.endswith(">") and tokenizer.token_id(text) in range(151_643, 151_669)
        table.append(text.encode() if special else bytes(alphabet[c] for c in text))
    return table


def test_every_target_of_every_row_lies_in_the_assistants_own_text(shared: Path, doraemon: Path):
    encoder = Encoder.from_folder(shared / "assets" / "tokenizers" / "qwen3")
    table = token_bytes(encoder)
    raw_rows = [json.loads(line) for line in doraemon.read_text(encoding="utf-8").splitlines()]
    loaded = load_conversations(str(doraemon))
    assert {item.source.line for item in loaded.quarantined} == MALFORMED
    assert len(loaded.conversations) == len(raw_rows) - len(MALFORMED) == 3598
    for conversation in loaded.conversations:
        tree = encoder.encode(conversation)
        assert not tree.has_branches  # every context is what stands before it
        text, spans = expected(raw_rows[conversation.source.line - 1])
        pieces = [table[token] for token in tree.input_ids.tolist()]
        assert b"".join(pieces) == text, conversation.source
        ends = [0]
        for piece in pieces:
            ends.append(ends[-1] + len(piece))
        trained = []
        for p, token in zip(tree.target_positions.tolist(), tree.target_ids.tolist(), strict=True):
            assert tree.input_ids[p + 1] == token
            trained.append((ends[p + 1], ends[p + 2]))
        merged: list[tuple[int, int]] = []
        for start, end in trained:
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        assert merged == spans, conversation.source  # all of the answer, and nothing of any observation


def test_every_row_comes_back_byte_for_byte(doraemon: Path):
    form = registry.get("ms-agent")
    lines = doraemon.read_text(encoding="utf-8").splitlines()
    back = 0
    for number, line in enumerate(lines, 1):
        row = json.loads(line)
        try:
            conversation = registry.read_row(row, load_source(number), "ms-agent")
        except DataError:
            assert number in MALFORMED
            continue
        assert form.write is not None
        assert json.dumps(form.write(conversation), ensure_ascii=False) == json.dumps(row, ensure_ascii=False)
        back += 1
    assert back == 3598


def load_source(line: int):
    from actune.core.types import Source

    return Source(file="doraemon", line=line)


@pytest.mark.parametrize("name", ["qwen3", "minimind", "qwen2.5", "qwen-7b-chat", "mistral-v3"])
def test_prompts_have_the_ids_of_transformers(shared: Path, doraemon: Path, name: str):
    transformers = pytest.importorskip("transformers")
    folder = shared / "assets" / "tokenizers" / name
    encoder = Encoder.from_folder(folder)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    raw_rows = [json.loads(line) for line in doraemon.read_text(encoding="utf-8").splitlines()[:40]]
    for conversation in load_conversations(f"{doraemon}").conversations[:40]:
        raw = raw_rows[conversation.source.line - 1]["conversations"]
        messages = [{"role": part["from"], "content": part["value"]} for part in raw[:2]]
        turn = encoder.encode_turns(conversation)[0]
        options = {"add_generation_prompt": True, "return_dict": False}
        assert turn.ids[: turn.start] == reference.apply_chat_template(messages, **options)
        text = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = reference(text + turn.turn.completion, add_special_tokens=False)["input_ids"]
        assert turn.ids == whole


@pytest.mark.parametrize(
    "file",
    ["glaive_toolcall_en_demo.json", "glaive_toolcall_zh_demo.json", "reason_tool_use_demo_50.jsonl"],
)
def test_native_calls_of_other_sets_are_exact_or_refused(shared: Path, file: str):
    encoder = Encoder.from_folder(shared / "assets" / "tokenizers" / "qwen3")
    rows = load_conversations(str(shared / "data" / "agent" / file)).conversations
    trees = [encoder.encode(row) for row in rows]
    assert len(trees) >= 50
    assert all(len(tree.target_ids) for tree in trees)
