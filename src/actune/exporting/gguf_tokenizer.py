"""A tokenizer as GGUF holds it: tokens with their kinds, merges or scores, special ids, and the name of its pre-tokenizer.

Two kinds of tokenizer.json are written: byte-level BPE (`gpt2` in llama.cpp) and BPE with byte tokens over text whose blanks
are `▁` (`llama`, the sentencepiece kind). For the second llama.cpp merges by scores, not by a list, so it is written only
where both come to the same. What llama.cpp does was read from its `src/llama-vocab.cpp` of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from actune.core.errors import ConfigError
from actune.exporting.pretokenizers import find_pre_tokenizer
from actune.render.chat import ChatRenderer
from actune.render.tokenizer import read_json

# Values of `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BLANK = "▁"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTokenizer:
    """What stands under `tokenizer.` in a GGUF file; `notices` say where llama.cpp reads text otherwise."""

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    ids: Mapping[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_space_prefix: bool | None = None
    notices: tuple[str, ...] = ()


def build_tokenizer(renderer: ChatRenderer, *, vocabulary: int, begins_with_bos: bool, advice: str) -> GgufTokenizer:
    """Return the tokenizer of a renderer for a model with `vocabulary` rows of embeddings.

    Rows without a token become unused tokens. `begins_with_bos` says that prompts of the chat template begin with the bos
    token: llama.cpp takes it away and puts one itself.

    Raises:
        ConfigError: llama.cpp would give other ids than this tokenizer, or it is of another kind. `advice` is the fix.
    """
    folder = renderer.tokenizer.folder
    content = read_json(folder / "tokenizer.json") if folder is not None else {}
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        _refuse(f"it is no BPE but {model.get('type') if isinstance(model, dict) else 'unknown'}", advice)
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            _refuse(f"it has a {key}", advice)
    added = {int(entry["id"]): entry for entry in content.get("added_tokens") or ()}
    _check_added(added, renderer, advice)
    byte_level = not model.get("byte_fallback")
    tokens, kinds = _list_tokens(model["vocab"], added, vocabulary, byte_level=byte_level, advice=advice)
    ids = _find_ids(renderer, vocabulary)
    if "eos" not in ids:
        _refuse("no single token ends an answer, and llama.cpp would stop at token 11", advice)
    common: dict[str, Any] = {"tokens": tokens, "kinds": kinds, "ids": ids, "add_bos": begins_with_bos}
    if byte_level:
        name, why = find_pre_tokenizer(content.get("pre_tokenizer"), ignores_merges=bool(model.get("ignore_merges")))
        if name is None:
            _refuse(why, advice)
        return GgufTokenizer(
            model="gpt2",
            pre=name,
            merges=tuple(" ".join(pair) for pair in _pairs(model)),
            notices=_check_normalizer(content.get("normalizer"), advice),
            **common,
        )
    prefix = _find_prefix(content, advice)
    return GgufTokenizer(
        model="llama",
        pre="default",
        scores=_find_scores(model, tokens, kinds, advice),
        add_space_prefix=prefix,
        **common,
    )


def _list_tokens(
    vocab: Mapping[str, int], added: Mapping[int, Mapping[str, Any]], size: int, *, byte_level: bool, advice: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [UNUSED] * size
    top = max([*vocab.values(), *added])
    if top >= size:
        _refuse(f"it has token {top}, the model has {size} rows of embeddings", advice)
    for text, number in vocab.items():
        tokens[number] = text
        kinds[number] = BYTE if not byte_level and _BYTE.fullmatch(text) else NORMAL
    for number, entry in added.items():
        special = bool(entry.get("special"))
        tokens[number] = entry["content"] if special or byte_level else entry["content"].replace(_BLANK, " ")
        kinds[number] = CONTROL if special else USER_DEFINED
    unknown = vocab.get("<unk>")
    if not byte_level and unknown is not None:
        kinds[unknown] = UNKNOWN
    if len(set(tokens)) < size or not all(tokens):
        twice = next((text for text in tokens if tokens.count(text) > 1), "")
        _refuse(f"two of its tokens have the text {twice!r}", advice)
    return tuple(tokens), tuple(kinds)


def _check_added(added: Mapping[int, Mapping[str, Any]], renderer: ChatRenderer, advice: str) -> None:
    """Refuse added tokens that take blanks beside them, where prompts hold them."""
    written = renderer.templates.plain + renderer.templates.tools + "".join(renderer.profile.stops)
    for entry in added.values():
        eats = [key for key in ("lstrip", "rstrip", "single_word") if entry.get(key)]
        if eats and (entry["content"] in written or not entry.get("special")):
            _refuse(f"its token {entry['content']!r} has {' and '.join(eats)}, which llama.cpp does not know", advice)


def _check_normalizer(normalizer: Mapping[str, Any] | None, advice: str) -> tuple[str, ...]:
    steps = [normalizer] if normalizer else []
    if normalizer and normalizer.get("type") == "Sequence":
        steps = list(normalizer.get("normalizers") or ())
    kinds = [str(step.get("type")) for step in steps]
    if not kinds:
        return ()
    if kinds == ["NFC"]:
        return (
            "the tokenizer normalises text (NFC), llama.cpp does not: text with separate accents, which few programs "
            "write, gets other ids there",
        )
    _refuse(f"it changes text before cutting it ({', '.join(kinds)}), llama.cpp does not", advice)


def _find_ids(renderer: ChatRenderer, vocabulary: int) -> dict[str, int]:
    """Return special ids: `eos` ends any text of the model, `eot` a turn of the chat template."""
    tokenizer = renderer.tokenizer
    named = {
        short: tokenizer.token_id(tokenizer.named_tokens.get(f"{short}_token", "")) for short in ("bos", "pad", "unk")
    }
    ends = tokenizer.end_tokens()
    eos = tokenizer.token_id(tokenizer.named_tokens.get("eos_token", ""))
    stop = next((one for stop in renderer.profile.stops if (one := tokenizer.token_id(stop)) is not None), None)
    named["eos"] = eos if eos is not None else next(iter(ends), stop)
    named["eot"] = stop if stop is not None else named["eos"]
    return {key: value for key, value in named.items() if value is not None and value < vocabulary}


def _pairs(model: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    pairs = []
    for merge in model.get("merges") or ():
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        pairs.append((str(left), str(right)))
    return pairs


# --- the sentencepiece kind ---


def _find_prefix(content: Mapping[str, Any], advice: str) -> bool:
    """Return whether a blank is put before every text and behind every special token."""
    normalizer, pre = content.get("normalizer"), content.get("pre_tokenizer")
    steps = list((normalizer or {}).get("normalizers") or ([normalizer] if normalizer else []))
    shapes = [(step.get("type"), step.get("prepend") or step.get("pattern"), step.get("content")) for step in steps]
    replace = ("Replace", {"String": " "}, _BLANK)
    if pre is None and shapes == [("Prepend", _BLANK, None), replace]:
        return True
    if pre is None and shapes == [replace]:
        return False
    if not steps and pre and pre.get("type") == "Metaspace" and pre.get("split") is False:
        if pre.get("prepend_scheme") == "never":
            return False
        _refuse(
            f"it puts a blank before a text by the scheme {pre.get('prepend_scheme')!r}, llama.cpp also behind control tokens",
            advice,
        )
    _refuse("it changes or cuts text in a way that llama.cpp does not know", advice)


def _find_scores(
    model: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int], advice: str
) -> tuple[float, ...]:
    """Return scores by which llama.cpp merges as the list of merges does.

    llama.cpp merges whatever two pieces make a token, the best score first. That is the list of merges if every such pair
    stands in it and the pairs that make one token stand together.
    """
    pairs = _pairs(model)
    listed = set(pairs)
    scores = [0.0] * len(tokens)
    vocab = model["vocab"]
    seen: set[str] = set()
    last = ""
    for rank, (left, right) in enumerate(pairs):
        made = left + right
        if made != last and made in seen:
            _refuse(f"its merges make {made!r} at two places of the list, llama.cpp merges by token", advice)
        seen.add(made)
        last = made
        if scores[vocab[made]] == 0.0:
            scores[vocab[made]] = -float(rank + 1)
    for text, number in vocab.items():
        if kinds[number] != NORMAL:
            scores[number] = -1000.0 * len(tokens)
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocab and right in vocab and (left, right) not in listed:
                _refuse(f"llama.cpp would merge {left!r} and {right!r}, which it does not", advice)
    return tuple(scores)


def _refuse(why: str, advice: str) -> NoReturn:
    raise ConfigError(f"llama.cpp cannot be given this tokenizer exactly: {why}", fix=advice)
