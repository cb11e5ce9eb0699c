from __future__ import annotations

import re
from pathlib import Path

import pytest

from actune.core.types import Conversation, Message, Source
from actune.render.encoder import Encoder
from actune.render.stops import Ending, find_call_stop, find_ending

SPECIAL = re.compile(r"<end>|<answered>|<eos>|<user>")


def ending(text: str, stop: str, *, added: bool = False) -> Ending:
    return Ending(text=text, stop=stop, added=added)


@pytest.mark.parametrize(
    ("tail", "follow", "want"),
    [
        ("<end>\n", "<end>\n<user>", ending("<end>", "<end>")),
        ("\n<end><user>x", "\n<end><user>y", ending("\n<end>", "<end>")),
        # End of answer, then end of turn, which is the token that stops generation.
        ("<answered><eos>", "<answered><eos><user>", ending("<answered><eos>", "<eos>")),
        # With text between them the first one stops.
        ("<end>\n<eos>", "<end>\n<user>", ending("<end>", "<end>")),
        # No token of this tokenizer: the marker as text.
        ("[/turn]\n", "[/turn]\n[user]", ending("[/turn]", "[/turn]")),
        ("\n<|done|>\n### Answer:\n", "\n<|done|>\n### Question:\n", ending("\n<|done|>", "<|done|>")),
        ("<|done|><|assistant|>", "<|done|><|human|>", ending("<|done|>", "<|done|>")),
        ("<|return|>", "<|done|><|human|>", ending("<|return|>", "<|return|>")),
        ("<|done|>\n", None, ending("<|done|>", "<|done|>")),
        # Nothing that ends a turn: the eos token is put there.
        ("", "[user]", ending("<eos>", "<eos>", added=True)),
        ("\n\n", "\n\nQ: ", ending("<eos>", "<eos>", added=True)),
        ("\n\nIs this safe?", "\n\nQ: ", ending("<eos>", "<eos>", added=True)),
    ],
)
def test_the_end_of_an_answer_is_found(tail: str, follow: str | None, want: Ending):
    assert find_ending(tail, follow, special=SPECIAL, eos="<eos>") == want


def test_without_marker_and_eos_there_is_no_ending():
    assert find_ending("\n", "\n[user]", special=SPECIAL, eos=None) is None


@pytest.mark.parametrize(
    ("tail", "want"),
    [
        ('"}</call><end>\n', None),
        ('"}<answered>', "<answered>"),
        ('"}<|call|>', "<|call|>"),
        ('"}</call>', None),
    ],
)
def test_a_call_may_have_a_stop_of_its_own(tail: str, want: str | None):
    assert find_call_stop(tail, ending("<end>", "<end>"), SPECIAL) == want


def test_a_call_without_its_own_stop_ends_like_an_answer():
    assert find_call_stop('"}</call>', ending("<eos>", "<eos>", added=True), SPECIAL) is None


def test_a_turn_marker_that_is_no_token_ends_the_completion(tmp_path: Path, tokenizer_folder: Path):
    template = tmp_path / "text_markers.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/turn]\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        encoding="utf-8",
    )
    encoder = Encoder.from_folder(tokenizer_folder, chat_template=template)
    messages = (Message(role="user", content="a?"), Message(role="assistant", content="A."))
    row = Conversation(messages=messages, source=Source(file="x", line=1))
    assert encoder.encode_turns(row)[0].turn.completion == "A.[/turn]"
    assert not encoder.renderer.profile.stop_added
