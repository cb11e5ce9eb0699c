"""Text <-> token ids from `tokenizer.json` alone: no torch, no guessing of a tokenizer class.

The file is the truth: the same folder with and without a `config.json` can make AutoTokenizer pick different classes
with different ids, the serialised tokenizer cannot.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from actune.core.errors import ConfigError, ModelError
from actune.render.segments import ID_SIZE, SegmentEncoder, any_of, pack, unpack

# Private-use characters that mark a control token which stands in user or tool text. The same two as transformers'
# `sanitize_control_tokens` uses, so that a text marked by either is encoded alike.
MARK_OPEN, MARK_CLOSE = "\U000f0000", "\U000f0001"
# What bytes that are no character decode to; ids kept as context of a stream, and how many make it look for a cut.
_UNKNOWN, _CONTEXT, _LONG = "\ufffd", 8, 64
_TOKEN_KEY = re.compile(r"^[a-z_]+_token$")

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# For base models that know no ChatML tokens: words for roles, and the end-of-sequence token after each answer.
PLAIN = (
    "{{- bos_token if bos_token is defined and bos_token else '' }}"
    "{%- for message in messages %}"
    "{{- '### ' + message['role'].capitalize() + ':\\n' + message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{- eos_token }}{%- endif %}"
    "{{- '\\n\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Assistant:\\n' }}{%- endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplates:
    """The Jinja texts of a model: one for plain chat, one when tools are given (mostly the same)."""

    plain: str
    tools: str
    origin: str

    @property
    def is_default(self) -> bool:
        """Whether the model brought none and a default is used."""
        return self.origin.startswith("default")


class TextTokenizer:
    """Encodes whole texts; equal to `tokenizers` on the whole text, faster because no part is encoded twice."""

    def __init__(self, tokenizer: Tokenizer, config: Mapping[str, Any], *, folder: Path | None = None) -> None:
        """Wrap a `tokenizers.Tokenizer`; `config` is the content of tokenizer_config.json."""
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.folder = folder
        self.config = dict(config)
        self.named_tokens = _named_tokens(config)
        self._added = dict(tokenizer.get_added_tokens_decoder())
        self._segments = SegmentEncoder(tokenizer, folder / "tokenizer.json" if folder is not None else None)
        self._adds_blank: bool | None = None
        self._newline = tokenizer.encode("\n", add_special_tokens=False).ids
        self.special_tokens = frozenset(token.content for token in self._added.values() if token.special)
        self._byte_tokens: dict[int, int] | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> TextTokenizer:
        """Load `tokenizer.json` and `tokenizer_config.json` of a model folder.

        Raises:
            ConfigError: when there is no tokenizer.json.
            ModelError: when it is unreadable.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(
                f"no tokenizer.json in {folder}",
                fix="convert the tokenizer once: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            if "Merges text file invalid" in str(error):
                raise ModelError(
                    f"{path} cannot be read: its merges are texts, one of them holds blanks, and newer versions of "
                    f"tokenizers cannot tell its two parts: {error}",
                    fix='write model.merges as pairs (["a", "b"] for "a b") and leave out those with more than one blank, '
                    "or take a newer tokenizer.json of this model",
                ) from error
            raise ModelError(
                f"{path} cannot be read: {error}", fix="save the tokenizer again with transformers"
            ) from error
        return cls(tokenizer, read_json(folder / "tokenizer_config.json"), folder=folder)

    def expect_much(self) -> None:
        """Get ready for megabytes of text: see `actune.render.fast`."""
        self._segments.expect_much()

    def token_id(self, token: str) -> int | None:
        """Return the id of a token's text, None when the vocabulary lacks it."""
        return self._tokenizer.token_to_id(token)

    def token_text(self, token_id: int) -> str:
        """Return the text of one token as the vocabulary writes it."""
        return self._tokenizer.id_to_token(token_id) or ""

    def end_tokens(self) -> list[int]:
        """Return the ids that end any text of the model: eos of its generation config, then of its tokenizer."""
        configured = read_json(self.folder / "generation_config.json").get("eos_token_id") if self.folder else None
        listed = configured if isinstance(configured, list) else [configured]
        ids = [one for one in listed if isinstance(one, int) and not isinstance(one, bool)]
        eos = self.token_id(self.named_tokens.get("eos_token", ""))
        return ids if eos is None or eos in ids else [*ids, eos]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, control tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """Return a decoder of ids that come one by one after a prompt."""
        return TextStream(self.decode, self.byte_tokens().keys(), prompt)

    def stream_answer(self, prompt: Sequence[int]) -> TextStream:
        """Return a decoder of what a model writes after a prompt: the text that has these ids behind it.

        Some tokenizers put a blank before what follows a control token; it is in the ids and not in the text.
        """
        added = bool(prompt) and prompt[-1] in self._added and self._blank_follows()
        return TextStream(self.decode, self.byte_tokens().keys(), prompt, added_blank=added)

    def _blank_follows(self) -> bool:
        """Whether text behind a control token is encoded as if a blank stood before it."""
        if self._adds_blank is None:
            control = next(iter(sorted(self.special_tokens)), "")
            self._adds_blank = bool(control) and self.decode(self.encode(f"{control}a")).endswith(f"{control} a")
        return self._adds_blank

    def byte_tokens(self) -> dict[int, int]:
        """Return the byte of each token that stands for one (`<0xE4>`)."""
        if self._byte_tokens is None:
            named = {f"<0x{value:02X}>": value for value in range(256)}
            found = {one: value for text, value in named.items() if (one := self.token_id(text)) is not None}
            # In some vocabularies such a text is just a text.
            self._byte_tokens = {one: value for one, value in found.items() if self.decode([one]) != f"<0x{value:02X}>"}
        return self._byte_tokens

    def encode(self, text: str) -> list[int]:
        """Return the ids of a whole text, no special tokens added; marked control tokens are encoded as plain text."""
        return unpack(self._encode_whole(text))

    def encode_turn(self, prompt: str, completion: str) -> tuple[array[int], int]:
        """Return (ids of prompt + completion, how many of them are the prompt's).

        The prompt's ids are those of its whole text, as inference sends them. The completion's are what the whole text
        adds, or, where that would change the prompt's last token, those of its own text.
        """
        before = self._encode_whole(prompt)
        both = self._encode_whole(prompt + completion)
        if not both.startswith(before):
            both = before + pack(self.encode_after(completion))
        return array("i", both), len(before) // ID_SIZE

    def encode_after(self, text: str) -> list[int]:
        """Return the ids of a text that continues another: without the blank some tokenizers put at a text's start."""
        ids = self._encode_plain("\n" + text)
        size = len(self._newline)
        return ids[size:] if ids[:size] == self._newline else self._encode_plain(text)

    def control_pattern(self, template: str) -> re.Pattern[str]:
        """Return a pattern of control tokens under a template: special tokens, and added ones that it writes itself."""
        tokens = [
            token.content
            for token in self._added.values()
            if token.special or (token.content in template and not token.content.isspace())
        ]
        return any_of(tokens)

    def _encode_whole(self, text: str) -> bytes:
        if MARK_OPEN not in text and MARK_CLOSE not in text:
            return self._segments.encode_growing(text)
        return pack(self._encode_marked(text))

    def _encode_plain(self, text: str) -> list[int]:
        return unpack(self._segments.encode(text))

    def _encode_marked(self, text: str) -> list[int]:
        controls = any_of([token.content for token in self._added.values()])
        pieces = re.split(f"{MARK_OPEN}({controls.pattern}){MARK_CLOSE}|[{MARK_OPEN}{MARK_CLOSE}]", text)
        ids = self._encode_plain(pieces[0])
        for index, piece in enumerate(pieces[1:], start=1):
            if not piece:
                continue
            ids += self._encode_literal(piece) if index % 2 else self.encode_after(piece)
        return ids

    def _encode_literal(self, text: str) -> list[int]:
        """Encode text as plain characters: no added token is matched in it."""
        size = len(self._newline)
        ids = self._run_model("\n" + text)
        ids = ids[size:] if ids[:size] == self._newline else self._run_model(text)
        if self.token_id(text) in ids:
            raise ModelError(
                f"the control token {text!r} cannot be written as plain text with this tokenizer",
                fix="remove it from the row, or pass --raw_control_tokens",
            )
        return ids

    def _run_model(self, text: str) -> list[int]:
        backend = self._tokenizer
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [text]
        if backend.pre_tokenizer is not None:
            words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for word in words for token in backend.model.tokenize(word)]


class TextStream:
    """Decodes ids one by one: the pieces joined are what decoding the prompt with all ids adds to the prompt's text.

    A character is given out when no later id can change it. Two things can: bytes that are missing of a character (the
    text then ends in U+FFFD), and, with byte tokens (`<0xE4>`), a decoder that reads a run of them as a whole, so a run
    is decoded when it has ended. A few ids are kept as context, since decoders treat the start of a text differently.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        byte_tokens: Collection[int],
        prompt: Sequence[int],
        *,
        added_blank: bool = False,
    ) -> None:
        """Start after `prompt`, which ends between two characters; an `added_blank` at the start is no text."""
        self._added_blank = added_blank
        self._decode = decode
        self._byte_tokens = byte_tokens
        end = len(prompt)
        while end > 0 and prompt[end - 1] in byte_tokens:  # whole characters: not to be read as one run with what comes
            end -= 1
        self._ids = list(prompt[max(0, end - _CONTEXT) : end]) or list(prompt)
        self._given = len(decode(self._ids))

    def push(self, token: int) -> str:
        """Return the text that has become certain with this id, often its own."""
        self._ids.append(token)
        if token in self._byte_tokens:
            return ""
        text = self._decode(self._ids)
        certain = len(text) - 1 if text.endswith(_UNKNOWN) else len(text)
        piece = text[self._given : certain]
        self._given = max(self._given, certain)
        if certain == len(text):
            self._forget()
        elif len(self._ids) > _LONG and len(self._ids) % _LONG == 0:
            self._forget_broken(text)
        return self._without_blank(piece)

    def finish(self) -> str:
        """Return the rest: what an unfinished character decodes to."""
        text = self._decode(self._ids)
        piece, self._given = text[self._given :], len(text)
        return self._without_blank(piece)

    def _without_blank(self, piece: str) -> str:
        if not self._added_blank or not piece:
            return piece
        self._added_blank = False
        return piece.removeprefix(" ")

    def _forget(self) -> None:
        """Keep the last ids that have a text."""
        for size in range(1, _CONTEXT):
            tail = self._ids[-size:]
            if size < len(self._ids) and (text := self._decode(tail)) and _UNKNOWN not in text:
                self._ids, self._given = tail, len(text)
                return

    def _forget_broken(self, text: str) -> None:
        """Cut a long run of bytes that are no characters where its parts are decoded as the whole."""
        for size in range(_LONG // 4, _LONG // 2):
            tail = self._decode(self._ids[-size:])
            if self._decode(self._ids[:-size]) + tail == text:
                self._ids, self._given = self._ids[-size:], self._given - len(text) + len(tail)
                return


def mark_control_tokens(text: str, pattern: re.Pattern[str]) -> str:
    """Return a text whose control tokens are marked, so that `TextTokenizer.encode` writes them as plain text."""
    if MARK_OPEN in text or MARK_CLOSE in text:  # marks from outside must not forge a pair
        text = text.replace(MARK_OPEN, "").replace(MARK_CLOSE, "")
    return pattern.sub(f"{MARK_OPEN}\\g<0>{MARK_CLOSE}", text)


def strip_marks(text: str) -> str:
    """Return a rendered text as a person reads it."""
    return text.replace(MARK_OPEN, "").replace(MARK_CLOSE, "")


def load_templates(folder: Path, tokenizer: TextTokenizer, override: Path | None = None) -> ChatTemplates:
    """Return the chat templates of a model folder; a default when it has none.

    Order: `override`, chat_template.jinja, tokenizer_config.json, chat_template.json, then ChatML if the vocabulary has
    its tokens, else roles as words with the end-of-sequence token after each answer.

    Raises:
        ModelError: when the override cannot be read, or no default is possible for want of an eos token.
    """
    if override is not None:
        try:
            text = override.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"chat template {override} cannot be read: {error}", fix="give a Jinja text file"
            ) from error
        return ChatTemplates(plain=text, tools=text, origin=str(override))
    file = folder / "chat_template.jinja"
    if file.is_file():
        text = file.read_text(encoding="utf-8")
        return ChatTemplates(plain=text, tools=text, origin=file.name)
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = read_json(folder / name).get("chat_template")
        if isinstance(value, str):
            return ChatTemplates(plain=value, tools=value, origin=name)
        if isinstance(value, list):
            named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
            plain = named.get("default") or next((text for text in named.values() if isinstance(text, str)), None)
            if isinstance(plain, str):
                return ChatTemplates(plain=plain, tools=named.get("tool_use") or plain, origin=name)
    if tokenizer.token_id("<|im_start|>") is not None and tokenizer.token_id("<|im_end|>") is not None:
        return ChatTemplates(plain=CHATML, tools=CHATML, origin="default (ChatML)")
    if "eos_token" not in tokenizer.named_tokens:
        raise ModelError(
            f"{folder} has no chat template, no ChatML tokens and no eos token",
            fix="give a template with --chat_template FILE",
        )
    return ChatTemplates(plain=PLAIN, tools=PLAIN, origin="default (roles as words)")


def save_tokenizer(tokenizer: TextTokenizer, templates: ChatTemplates, folder: Path) -> None:
    """Write the tokenizer and the chat template so that every folder gives the same ids and the same text.

    The class is written as PreTrainedTokenizerFast, which takes tokenizer.json as it is; other classes rebuild parts
    of it, and which one is taken can depend on a config.json beside it.
    """
    origin = tokenizer.folder
    if origin is None:
        raise ModelError("a tokenizer that was not read from a folder cannot be saved", fix="use from_folder")
    (folder / "tokenizer.json").write_bytes((origin / "tokenizer.json").read_bytes())
    dropped = ("chat_template", "auto_map", "tokenizer_file")
    config = {key: value for key, value in tokenizer.config.items() if key not in dropped}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if templates.plain == templates.tools:
        (folder / "chat_template.jinja").write_text(templates.plain, encoding="utf-8")
    else:  # two templates have no file of their own
        named = [{"name": "default", "template": templates.plain}, {"name": "tool_use", "template": templates.tools}]
        config["chat_template"] = named
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; an absent file is an empty one.

    Raises:
        ModelError: when the file is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is no readable JSON: {error}", fix="copy the file again from the model") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object", fix="copy the file again from the model")
    return value


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return bos_token, eos_token and the like: the variables that templates may use."""
    named = {}
    for key, value in config.items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if _TOKEN_KEY.match(key) and isinstance(content, str):
            named[key] = content
    return named
