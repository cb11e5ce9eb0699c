"""Shared fixtures: a tokenizer trained on the spot, chat templates written for the tests, the reference's row."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SHARED = Path(__file__).resolve().parents[2] / "shared"

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Tools, calls as JSON between tags, results as a user-like turn: history stays as it is.
TOOLS = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
    "{{- 'Tools:' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' and tools and loop.first %}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{{- '<tool_call>' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) + '</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Shows reasoning of the last answer only and drops it from the history, as many reasoning models do.
THINKING = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' and loop.last and message.reasoning_content %}"
    "{{- '<think>' + message.reasoning_content + '</think>' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_TEXT = [
    "Answer the following questions as best you can. You have access to the following APIs:",
    "Thought: you should always think about what to do",
    "Action: the action to take\nAction Input: the input to the action\nObservation: the result of the action\n",
    "Thought: I now know the final answer\nFinal Answer: the final answer to the original input question",
    "The weather in Hangzhou is sunny today, 25 degrees.",
    "你好，请问杭州今天天气怎么样？我现在知道最终答案了。",
    '{"city": "杭州", "date": "2024-01-01"}',
]


def write_tokenizer(folder: Path, *, template: str | None = CHATML) -> Path:
    """Train a small byte-level BPE into a folder, with ChatML tokens and a template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<tool_call>", "</tool_call>", "<think>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep encoded rows of the tests, and of the commands that they start, out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tokenizer with a plain ChatML template."""
    return write_tokenizer(tmp_path_factory.mktemp("chatml"))


@pytest.fixture(scope="session")
def tools_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tokenizer whose template shows tools and calls."""
    return write_tokenizer(tmp_path_factory.mktemp("tools"), template=TOOLS)


@pytest.fixture(scope="session")
def thinking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tokenizer whose template strips the reasoning of earlier answers."""
    return write_tokenizer(tmp_path_factory.mktemp("thinking"), template=THINKING)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data is not here")
    return SHARED


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The functions of tests/training_kit.py."""
    return _load("training_kit")


@pytest.fixture(scope="session")
def agent_kit() -> ModuleType:
    """The scripted engine of tests/agent_kit.py."""
    return _load("agent_kit")


@pytest.fixture(scope="session")
def server_kit() -> ModuleType:
    """The fake OpenAI-compatible server of tests/server_kit.py."""
    return _load("server_kit")


@pytest.fixture(scope="session")
def mcp_kit() -> ModuleType:
    """The MCP servers of tests/mcp_kit.py."""
    return _load("mcp_kit")


@pytest.fixture(scope="session")
def native_kit() -> ModuleType:
    """The chat templates of tests/native_kit.py, one per form of calls."""
    return _load("native_kit")


@pytest.fixture(scope="session")
def data_kit() -> ModuleType:
    """Choosing and encoding rows as a run does: tests/data_kit.py."""
    return _load("data_kit")


@pytest.fixture(scope="session")
def export_kit() -> ModuleType:
    """Models of the exported families: tests/export_kit.py."""
    return _load("export_kit")


@pytest.fixture(scope="session")
def serving_kit() -> ModuleType:
    """The scripted engine and the server of tests/serving_kit.py."""
    return _load("serving_kit")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def one_thread():
    """The same sums in the same order, and no fight for cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
