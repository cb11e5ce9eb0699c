"""Command lines of servers for what was exported."""

from __future__ import annotations

from actune.exporting.commands import Served, list_commands

FIELDS = ("thinking", "tool_calls", "content")


def lines(**given) -> dict[str, str]:
    return {command.server: command.line for command in list_commands(Served(name="agent", **given))}


def test_vllm_and_sglang_read_the_stored_parser():
    found = lines(form="merged", style="chat", fields=FIELDS)
    assert found["vLLM"] == (
        "vllm serve . --served-model-name agent --enable-auto-tool-choice --tool-call-parser hf --reasoning-parser hf"
    )
    assert found["SGLang"] == "python -m sglang.launch_server --model-path . --served-model-name agent"


def test_without_a_parser_none_is_named():
    served = Served(form="merged", name="agent", style="chat")
    own, vllm, _ = list_commands(served)
    assert own.line == "actune serve --model ."
    assert "--tool-call-parser" not in vllm.line
    assert "no response_template" in vllm.notes[0]


def test_react_needs_its_template_and_its_stop():
    served = Served(form="merged", name="agent", style="react", fields=FIELDS, react_file=True)
    own, *servers = list_commands(served)
    assert "--dialect react" in own.line
    for command in servers:
        assert "--chat-template react_template.jinja" in command.line
        assert 'send "stop": ["Observation:"]' in command.notes[0]
    bare = list_commands(Served(form="merged", name="agent", style="react"))[1]
    assert "give the API list as the system text" in bare.notes[1]


def test_an_adapter_is_served_on_its_base_with_what_servers_say():
    served = Served(
        form="adapter", name="agent", style="chat", base="owner/m", rank=24, refusals=("no",), fields=FIELDS
    )
    vllm, sglang = list_commands(served)
    assert vllm.line.startswith(
        "vllm serve owner/m --enable-lora --max-lora-rank 32 --lora-modules agent=. --tokenizer ."
    )
    assert vllm.notes[0] == "no"
    assert "--lora-paths agent=." in sglang.line


def test_gguf_and_ollama():
    assert lines(form="gguf", style="chat", weights="./m.gguf", context=512)["llama.cpp"] == (
        "llama-server -m ./m.gguf --jinja -c 512"
    )
    found = lines(form="ollama", style="chat", weights="./m.gguf")
    assert found["Ollama"] == "ollama create agent -f Modelfile"
    assert "llama.cpp" in found
    assert list(lines(form="ollama", style="chat")) == ["Ollama"]
