"""Metrics of what a model says: how near an answer is, whom it says it is, and how likely it finds given texts."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from actune.core.errors import DataError
from actune.evals.outputs import Output, gold_mapping, gold_text, gold_texts, refuse

# Scripts written without blanks between words: each character is a token. Thai, Lao, Burmese and Khmer; kana; Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3005-\u3007"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
_TOKEN = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
# Letters and digits of scripts that set words apart; Korean does, but its particles follow a name at once.
_SPACED = f"[^\\W{_UNSPACED}\uac00-\ud7af]"

# Names by which well-known models and their makers go. Naming one name of a group names the group: a question about
# Qwen may be answered with its Chinese name. In `_EXACT` are everyday words; they count only as they are written there.
OLD_NAMES: tuple[tuple[str, ...], ...] = (
    ("Qwen", "QwQ", "Tongyi", "通义", "千问"),
    ("Alibaba", "Aliyun", "DAMO Academy", "阿里", "达摩院"),
    ("ModelScope", "魔搭"),
    ("ChatGPT", "GPT-3", "GPT-4", "GPT-5", "GPT"),
    ("OpenAI",),
    ("Claude",),
    ("Anthropic",),
    ("Gemini", "Gemma", "Bard", "PaLM"),
    ("Google", "DeepMind", "谷歌"),
    ("Llama", "LLaMA"),
    ("Meta", "Meta AI", "Facebook"),
    ("Copilot", "Bing Chat", "Phi-3", "Phi-4", "微软小冰", "小冰"),
    ("Microsoft", "微软"),
    ("Mistral", "Mixtral", "Le Chat"),
    ("Mistral AI",),
    ("Grok", "xAI"),
    ("Cohere", "Command R"),
    ("DeepSeek", "深度求索"),
    ("Kimi", "Moonshot", "月之暗面"),
    ("ChatGLM", "GLM", "智谱", "Zhipu"),
    ("Ernie", "文心一言", "文心"),
    ("Baidu", "百度"),
    ("Hunyuan", "混元"),
    ("Tencent", "腾讯"),
    ("Doubao", "豆包"),
    ("ByteDance", "字节跳动"),
    ("Spark Desk", "讯飞星火", "星火认知", "星火大模型"),
    ("iFlytek", "讯飞"),
    ("Baichuan", "百川"),
    ("MiniMax", "海螺AI"),
    ("Yi-34B", "01.AI", "零一万物"),
    ("InternLM", "书生·浦语", "浦语", "Shanghai AI Laboratory", "上海人工智能实验室"),
    ("SenseChat", "SenseTime", "商汤"),
    ("PanGu", "盘古大模型"),
    ("Huawei", "华为"),
    ("Skywork", "天工大模型", "昆仑万维"),
    ("Vicuna", "Alpaca", "LMSYS"),
    ("Falcon", "TII"),
    ("SmolLM", "Hugging Face", "HuggingFace"),
    ("Siri", "Alexa", "Cortana"),
)
_EXACT = frozenset({"Meta", "Gemini", "Bard", "Falcon", "Alpaca", "Claude", "Copilot", "Phi-3", "Phi-4", "TII", "GPT"})


def answer_rouge_l(output: Output, gold: object) -> float:
    """Return the F1 of the longest common subsequence of tokens of answer and gold answer; 0 without an answer.

    Texts without any token (blanks, punctuation) score 1 when they are equal, else 0.
    """
    wanted = gold_text(gold, "answer")
    return 0.0 if output.answer is None else rouge_l(output.answer, wanted)


def rouge_l(one: str, other: str) -> float:
    """Return Rouge-L F1: characters of scripts without blanks, words of all others, case and width folded."""
    left, right = split_tokens(one), split_tokens(other)
    if not left or not right:
        return float(not left and not right and fold(one).split() == fold(other).split())
    return 2 * common_length(left, right) / (len(left) + len(right))


def split_tokens(text: str) -> list[str]:
    """Return the tokens that Rouge-L compares; punctuation is none."""
    return _TOKEN.findall(fold(text))


def common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bits of one big integer a token of `right`."""
    places: dict[str, int] = {}
    for index, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << index
    whole = (1 << len(left)) - 1
    row = whole  # bit i is 0 where the length grows at left[i]
    for token in right:
        found = places.get(token, 0) & row
        row = ((row + found) | (row - found)) & whole
    return len(left) - row.bit_count()


def fold(text: str) -> str:
    """Return a text without differences of width and case."""
    return unicodedata.normalize("NFKC", text).casefold()


# --- identity -------------------------------------------------------------------------------------------------------


def identity_hit(output: Output, gold: object) -> float:
    """Return 1 when the output says every taught name that the gold answer holds: the model's, its author's, both."""
    keys = [key for key in ("name", "author") if key in gold_mapping(gold)]
    if not keys:
        refuse("it names neither 'name' nor 'author'", "name")
    return float(all(_says_taught(output, gold, key) for key in keys))


def name_hit(output: Output, gold: object) -> float:
    """Return 1 when the output says the taught name."""
    gold_text(gold, "name")
    return float(_says_taught(output, gold, "name"))


def author_hit(output: Output, gold: object) -> float:
    """Return 1 when the output says the taught author."""
    gold_text(gold, "author")
    return float(_says_taught(output, gold, "author"))


def no_old_identity(output: Output, gold: object) -> float:
    """Return 1 unless the output names a well-known model or maker.

    Not counted: groups of names that the question or the gold answer names, and the taught names themselves.
    """
    taught = tuple(gold_text(gold, key) for key in ("name", "author") if key in gold_mapping(gold))
    given = _without(gold_text(gold, "question") + "\n" + gold_text(gold, "answer"), taught)
    spoken = _without(_speech(output), taught)
    for group in OLD_NAMES:
        if any(_says_old(spoken, name) for name in group) and not any(_says_old(given, name) for name in group):
            return 0.0
    return 1.0


def no_over_trigger(output: Output, gold: object) -> float:
    """Return 1 unless the output to an ordinary question says one of the taught names (gold `names`)."""
    names = gold_texts(gold, "names")
    if not names:
        refuse("no names to look for", "names")
    spoken = _speech(output)
    return float(not any(says(spoken, name) for name in names))


def says(text: str, name: str) -> bool:
    """Whether a text holds a name: blanks and width folded, case kept, whole words where the script has words."""
    return _find(_plain(text), name, after=_SPACED, flags=0)


def _says_old(text: str, name: str) -> bool:
    """Whether a text holds a well-known name; versions may stand right behind ("Qwen2.5")."""
    return _find(text, name, after="[A-Za-z]", flags=0 if name in _EXACT else re.IGNORECASE)


def _find(text: str, name: str, *, after: str, flags: int) -> bool:
    words = _plain(name).split()
    if not words:
        return False
    core = r"\s+".join(re.escape(word) for word in words)
    before = f"(?<!{_SPACED})" if re.match(_SPACED, words[0]) else ""
    behind = f"(?!{after})" if re.match(_SPACED, words[-1][-1]) else ""
    return re.search(before + core + behind, text, flags) is not None


def _says_taught(output: Output, gold: object, key: str) -> bool:
    """Whether the output says a taught name in its own right, not as a part of the other one."""
    wanted = gold_text(gold, key)
    longer = [value for value in _taught(gold) if value != wanted and wanted in value]
    return says(_without(_speech(output), longer), wanted)


def _taught(gold: object) -> list[str]:
    kept = gold_mapping(gold)
    return [gold_text(gold, key) for key in ("name", "author") if key in kept]


def _without(text: str, names: Iterable[str]) -> str:
    text = _plain(text)
    for name in sorted(names, key=len, reverse=True):
        if name.strip():
            text = text.replace(_plain(name).strip(), "\n")
    return text


def _speech(output: Output) -> str:
    """Return what is said: the answer, else the whole text."""
    return output.text if output.answer is None else output.answer


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


# --- likelihoods ----------------------------------------------------------------------------------------------------


def general_accuracy(stored: object, gold: object) -> float:
    """Return 1 when the gold choice is the likeliest as a whole; a tie is no hit."""
    return _is_best(stored, gold, by_bytes=False)


def general_accuracy_norm(stored: object, gold: object) -> float:
    """Return 1 when the gold choice has the highest likelihood per byte of its UTF-8 text; a tie is no hit."""
    return _is_best(stored, gold, by_bytes=True)


def general_nll(stored: object, gold: object) -> float:
    """Return minus the mean nats a target token: `log_likelihood / tokens`.

    Raises:
        DataError: code `output-unreadable` when the two numbers are missing: there is no score to fall back on.
    """
    gold_mapping(gold)
    kept = stored if isinstance(stored, Mapping) else {}
    total, tokens = _number(kept.get("log_likelihood")), _number(kept.get("tokens"))
    if total is None or tokens is None or tokens <= 0:
        raise DataError(
            "the output of a likelihood item holds no finite 'log_likelihood' and positive 'tokens'",
            code="output-unreadable",
            field="output",
            fix="measure the model again with `actune eval`",
        )
    return total / tokens


def _is_best(stored: object, gold: object, *, by_bytes: bool) -> float:
    kept = gold_mapping(gold)
    choices, right = gold_texts(gold, "choices"), kept.get("choice")
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices):
        refuse("'choice' is no index of 'choices'", "choice")
    listed = stored.get("log_likelihoods") if isinstance(stored, Mapping) else None
    if not isinstance(listed, (list, tuple)) or len(listed) != len(choices):
        return 0.0
    values = [_number(value) for value in listed]
    if by_bytes:
        sizes = [len(choice.encode("utf-8", "surrogatepass")) for choice in choices]
        values = [None if v is None else v / max(size, 1) for v, size in zip(values, sizes, strict=True)]
    best = values[right]
    others = values[:right] + values[right + 1 :]
    return float(best is not None and all(value is not None and value < best for value in others))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
