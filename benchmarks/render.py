"""How many conversations a second become token trees, beside what a training script does per row.

    python benchmarks/render.py --model DIR --data ROWS.jsonl

actune: `Encoder.encode`: the prompt and completion of every assistant turn, the check that nothing was lost, token ids,
the tree. Beside it, per row: one `apply_chat_template(messages, tools=..., tokenize=False)` of the whole conversation and
one call of the tokenizer (transformers). Both see the same rows, in turns of a few hundred, each row once, so nothing is
known of a row before, and a machine that slows down slows both.

Two kinds of rows: those of --data (ms-agent layout; transformers gets their texts as they stand), and generated ones,
half English, half Chinese, in which no two rows share a sentence; each has its own system text and tools, several rounds
of call, result and answer, and is written in the model's own format of calls. A second pass over the same rows tells how
the time is made up; its clock is read often, so its parts are together a little more than the first pass.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

from transformers import AutoTokenizer

from actune.core.errors import ActuneError
from actune.core.types import Conversation
from actune.data.reading.sources import load_conversations
from actune.render import encoder as encoding
from actune.render.encoder import Encoder

CHUNK = 200
BARS = {"data": 10.0, "generated": 3.0}
# What of the encoder is which part; what remains is its own.
PARTS = {"write_turns": "rendering", "find_losses": "checks", "build_tree": "tree"}
TOKENISING = ("encode", "encode_turn", "encode_after")
ENGLISH_TEXT = """
    the a of to and in for with on from this that it we you they can will should after before while because when then
    small large early late quick slow simple common useful distant narrow quiet modern ancient hollow bright careful
    river garden market station library bridge window letter engine battery harbor island valley teacher doctor farmer
    report invoice schedule network server database package account password container request response customer sensor
    measure compare collect deliver describe estimate improve remove replace return select transfer update verify write
    morning evening weather temperature pressure distance budget profit contract shipment warehouse ticket reservation
    quickly slowly nearly usually rarely together outside inside abroad again perhaps therefore however instead
"""
CHINESE_TEXT = """
    我们 你们 他们 今天 明天 昨天 天气 温度 城市 北方 南方 河流 花园 市场 车站 图书馆 桥梁 窗户 信件 发动机 电池 港口 岛屿 山谷 老师 医生
    农民 报告 发票 日程 网络 服务器 数据库 包裹 账户 密码 容器 请求 回答 客户 传感器 测量 比较 收集 交付 描述 估计 改进 删除 替换 返回 选择
    转移 更新 验证 书写 早晨 晚上 压力 距离 预算 利润 合同 货物 仓库 车票 预订 很快 慢慢 几乎 通常 很少 一起 外面 里面 国外 再次 也许 因此
    然而 而是 和 的 了 在 从 把 被 对 与 或者 如果 虽然 但是 可以 应该 需要 正在 已经 非常 比较 小 大 早 晚 简单 常见 有用 安静 现代 古老
"""
ENGLISH, CHINESE = ENGLISH_TEXT.split(), CHINESE_TEXT.split()


class Writer:
    """Writes rows of which no two share a sentence."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known: set[str] = set()

    def row(self) -> dict:
        """Return tools and messages: two or three rounds of question, call, result and answer."""
        draw = self._random
        self._chinese = draw.random() < 0.5
        tools = [self._tool() for _ in range(draw.randint(2, 4))]
        messages = [{"role": "system", "content": self._text(4)}]
        for _ in range(draw.randint(2, 3)):
            tool = draw.choice(tools)["function"]
            arguments = {name: self._sentence() for name in tool["parameters"]["properties"]}
            call = {"type": "function", "function": {"name": tool["name"], "arguments": arguments}}
            messages += [
                {"role": "user", "content": self._text(2)},
                {"role": "assistant", "content": self._text(1), "tool_calls": [call]},
                {"role": "tool", "content": json.dumps({"result": self._text(3)}, ensure_ascii=False)},
                {"role": "assistant", "content": self._text(4)},
            ]
        return {"tools": tools, "messages": messages}

    def _tool(self) -> dict:
        draw = self._random
        names = draw.sample(ENGLISH[18:], 3)
        properties = {name: {"type": "string", "description": self._sentence()} for name in names}
        return {
            "type": "function",
            "function": {
                "name": f"{draw.choice(ENGLISH[18:])}_{draw.choice(ENGLISH[18:])}_{draw.randint(1, 10**6)}",
                "description": self._sentence(),
                "parameters": {"type": "object", "properties": properties, "required": names[:1]},
            },
        }

    def _text(self, sentences: int) -> str:
        return ("" if self._chinese else " ").join(self._sentence() for _ in range(sentences))

    def _sentence(self) -> str:
        draw = self._random
        while True:
            words = draw.choices(CHINESE if self._chinese else ENGLISH, k=draw.randint(8, 20))
            if draw.random() < 0.3:
                words[draw.randrange(len(words))] = str(draw.randint(0, 9999))
            if self._chinese:
                text = "".join(words[:6]) + "，" + "".join(words[6:]) + "。"
            else:
                text = " ".join(words).capitalize() + "."
            if text not in self._known:
                self._known.add(text)
                return text


class Clock:
    """Adds up the seconds of parts; what runs inside a part that is measured already belongs to that."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running = False

    def measure(self, part: str, function: Callable) -> Callable:
        """Return a function whose time is added to a part."""

        @wraps(function)
        def timed(*args, **kwargs):
            if self._running:
                return function(*args, **kwargs)
            self._running = True
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - start
                self._running = False

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Run it on one core: taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/render.py ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer and chat template, no weights")
    parser.add_argument(
        "--data", type=Path, help="rows in the ms-agent layout (.jsonl); without it only generated rows"
    )
    parser.add_argument("--generated", type=int, default=2000, metavar="N", help="how many rows to generate (2000)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N rows of --data (all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated rows (0)")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    for name, rows, peers, dialect in kinds_of_rows(args):
        compare(name, rows, peers, Encoder.from_folder(args.model, dialect=dialect), tokenizer)
        show_parts(rows, Encoder.from_folder(args.model, dialect=dialect))


def kinds_of_rows(args: argparse.Namespace) -> Iterator[tuple[str, list[Conversation], list[dict], str]]:
    """Give (name, rows of actune, the same rows for transformers, dialect)."""
    if args.data is not None:
        rows = list(load_conversations(str(args.data)).conversations)[: args.limit]
        lines = args.data.read_text(encoding="utf-8").split("\n")
        raw = [json.loads(lines[row.source.line - 1])["conversations"] for row in rows]
        peers = [{"messages": [{"role": m["from"], "content": m["value"]} for m in messages]} for messages in raw]
        yield "data", rows, peers, "auto"
    if args.generated:
        writer = Writer(args.seed)
        peers = [writer.row() for _ in range(args.generated)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in peers), encoding="utf-8")
            yield "generated", list(load_conversations(str(path)).conversations), peers, "chat"


def compare(name: str, rows: list[Conversation], peers: list[dict], encoder: Encoder, tokenizer) -> None:
    """Print rows per second of both and the ratio."""
    if len(rows) != len(peers):
        raise SystemExit(f"{name}: {len(rows)} rows were read of {len(peers)}")
    seconds: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    tokens = characters = 0
    for start in range(0, len(rows), CHUNK):
        begin = time.perf_counter()
        for row in rows[start : start + CHUNK]:
            try:
                tokens += len(encoder.encode(row))
            except ActuneError as error:
                refused[type(error).__name__] += 1
        middle = time.perf_counter()
        for peer in peers[start : start + CHUNK]:
            text = tokenizer.apply_chat_template(peer["messages"], tools=peer.get("tools"), tokenize=False)
            characters += len(text)
            tokenizer(text, add_special_tokens=False)
        seconds["actune"] += middle - begin
        seconds["transformers"] += time.perf_counter() - middle
    ratio = seconds["transformers"] / seconds["actune"]
    per_row = f"{characters / len(rows):.0f} characters, {tokens / len(rows):.0f} tokens laid out a row"
    print(f"{name}: {len(rows)} rows, {per_row}" + "".join(f", {n} refused ({what})" for what, n in refused.items()))
    for who, spent in seconds.items():
        print(f"  {who:<13}{len(rows) / spent:>7.0f} rows/s {spent / len(rows) * 1e6:>7.0f} us/row")
    bar = BARS[name]
    print(f"  ratio        {ratio:>7.2f}   wanted {bar:g}: {'met' if ratio >= bar else 'MISSED'}")


def show_parts(rows: list[Conversation], encoder: Encoder) -> None:
    """Print where the time of a pass goes, in microseconds a row."""
    clock = Clock()
    kept = {name: getattr(encoding, name) for name in PARTS}
    text = encoder.renderer.tokenizer
    for name, part in PARTS.items():
        setattr(encoding, name, clock.measure(part, kept[name]))
    for name in TOKENISING:
        setattr(text, name, clock.measure("tokenising", getattr(text, name)))
    begin = time.perf_counter()
    try:
        for row in rows:
            try:
                encoder.encode(row)
            except ActuneError:
                continue
    finally:
        for name, function in kept.items():
            setattr(encoding, name, function)
    whole = time.perf_counter() - begin
    clock.seconds["other"] = whole - sum(clock.seconds.values())
    for part in ("rendering", "checks", "tokenising", "tree", "other"):
        spent = clock.seconds[part]
        print(f"    {part:<11}{spent / len(rows) * 1e6:>7.0f} us/row {spent / whole:>5.0%}")


if __name__ == "__main__":
    main()
