"""Every text of the page of `inspect` in both languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Words:
    """One text in both languages, safe HTML each; the page shows the one that its reader chose."""

    en: Markup
    zh: Markup

    def __html__(self) -> Markup:
        if self.en == self.zh:
            return self.en
        return Markup(f'<span class="l-en" lang="en">{self.en}</span><span class="l-zh" lang="zh-CN">{self.zh}</span>')


def words(key: str, **values: object) -> Words:
    """Return the text `key` with its values in place; values are escaped unless they are safe HTML."""
    return Words(*(Markup(text).format(**values) if values else Markup(text) for text in TEXTS[key]))


# A line each: English, then Chinese. No HTML, since the script writes them as text; `{name}` takes a value.
TEXTS: Mapping[str, tuple[str, str]] = {
    "title": ("What the model is trained on", "模型实际训练的内容"),
    # --- head
    "model": ("model", "模型"),
    "data": ("data", "数据"),
    "asked_dialect": ("dialect", "书写方式"),
    "template": ("chat template", "对话模板"),
    "part_weights": ("loss weights of parts", "各部分的损失权重"),
    "rows": ("rows", "数据条数"),
    "of_rows": ("{n} of {all} on this page", "本页 {n} 条，共 {all} 条"),
    "refused_of": ("{n} of all not trained on", "全部数据中有 {n} 条不参与训练"),
    "tokens_of_page": ("tokens laid out", "展开的 token 数"),
    "supervised_of_page": ("tokens supervised", "参与训练的 token 数"),
    "statistics": ("All {n} rows in numbers", "全部 {n} 条数据的统计"),
    "statistics_note": (
        "Token counts are of the {n} rows that are trained on. The median and the 95 % value are values that occur (nearest rank).",
        "token 数只统计参与训练的 {n} 条数据。中位数与 95 % 分位数都取实际出现的值（最近秩）。",
    ),
    "choice_note": (
        "Up to half of the rows on this page are here for their problems, some of each kind; the others are spread evenly over all data.",
        "本页至多一半是因其问题而选取的，每种问题都有；其余在全部数据中均匀选取。",
    ),
    "survey": ("What the chat template does, found by rendering probes", "对话模板的行为（通过渲染探针得到）"),
    "profile": ("How it is written: markers and forms", "书写形式：标记与格式"),
    # --- statistics
    "measure": ("a row", "每条数据"),
    "min": ("min", "最小"),
    "median": ("median", "中位数"),
    "mean": ("mean", "平均"),
    "p95": ("95 %", "95 %"),
    "max": ("max", "最大"),
    "total": ("total", "合计"),
    "m_longest": ("length: tokens of the longest prompt + answer", "长度：最长的“提示 + 回答”的 token 数"),
    "m_tokens": ("tokens laid out", "展开的 token 数"),
    "m_supervised": ("tokens supervised", "参与训练的 token 数"),
    "m_share": ("supervised share", "训练占比"),
    "m_turns": ("assistant messages", "助手消息数"),
    "m_calls": ("tool calls", "工具调用数"),
    "h_longest": ("Length in tokens", "长度（token 数）"),
    "h_share": ("Supervised share of the tokens", "参与训练的 token 占比"),
    "h_turns": ("Assistant messages a row", "每条数据的助手消息数"),
    "h_calls": ("Tool calls a row", "每条数据的工具调用数"),
    "over": ("{n} rows ({share}) are longer than max_length {limit}", "{n} 条（{share}）超过 max_length {limit}"),
    "over_none": ("no row is longer than max_length {limit}", "没有数据超过 max_length {limit}"),
    "histogram_note": (
        "Rows by value: from {low} to {high}, median {median}, mean {mean}.",
        "按数值统计的数据条数：{low} 至 {high}，中位数 {median}，平均 {mean}。",
    ),
    "branching": ("{n} rows branch: the template rewrites their history", "{n} 条数据有分支：模板会改写其历史"),
    "t_tools": ("Tools called", "被调用的工具"),
    "t_codes": ("Problems", "问题"),
    "t_sources": ("Files", "文件"),
    "t_styles": ("Source written as", "数据原本的写法"),
    "t_dialects": ("Trained as", "训练时的写法"),
    "t_weights": ("Loss weight of the targets", "训练目标的损失权重"),
    "c_calls": ("calls", "次数"),
    "c_rows": ("rows", "条数"),
    "c_tokens": ("tokens", "token 数"),
    "c_share": ("share", "占比"),
    "more_names": ("{n} more", "其余 {n} 个"),
    "no_problems": ("none found", "未发现"),
    "unreadable": ("unreadable", "无法读取"),
    # --- rows
    "row_list": ("Rows on this page", "本页数据"),
    "no_script": (
        "Without JavaScript the first {n} rows of this page are shown; search, filters and the other rows need it.",
        "未启用 JavaScript，只显示本页的前 {n} 条；搜索、筛选和其余数据需要启用它。",
    ),
    "no_rows": ("There are no rows.", "没有数据。"),
    "not_trained": ("not trained on", "不参与训练"),
    "dialect": ("trained as {name}", "训练写法 {name}"),
    "style": ("source written as {name}", "原写法 {name}"),
    "messages": ("messages: {n}", "消息数 {n}"),
    "tools_offered": ("tools offered: {n}", "可用工具 {n}"),
    "laid_out": ("{n} tokens laid out", "展开 {n} 个 token"),
    "supervised": ("{n} supervised ({share})", "{n} 个参与训练（{share}）"),
    "branches": ("the tree branches", "有分支"),
    "one_line": ("one line", "无分支"),
    "no_turn": ("No turn of this row can be shown.", "这条数据没有可以显示的轮次。"),
    "turn": ("Turn {n}", "第 {n} 轮"),
    "weight": ("weight {w}", "权重 {w}"),
    "prompt_ids": ("prompt {n} tokens", "提示 {n} 个 token"),
    "target_ids": ("target {n} tokens", "目标 {n} 个 token"),
    "prompt": ("Prompt", "提示"),
    "prompt_so_far": ("Prompt so far: {n} characters as in turn {turn}", "此前的提示：与第 {turn} 轮相同的 {n} 个字符"),
    "prompt_new": ("New in the prompt", "提示中新增的部分"),
    "prompt_rewritten": (
        "Rest of the prompt: the template writes it differently from here on",
        "提示的其余部分：模板从这里开始写法不同",
    ),
    "nothing": ("(nothing)", "（无）"),
    "target": ("Target", "目标"),
    "goes_on": ("goes on after turn {turn}", "接在第 {turn} 轮之后"),
    "branches_off": (
        "branches off after {n} tokens, {place} of turn {turn}",
        "在第 {turn} 轮{place}分支，共同部分 {n} 个 token",
    ),
    "in_target": ("in the target", "的目标之中"),
    "target_begin": ("at the beginning of the target", "的目标开头"),
    "in_prompt": ("in the prompt", "的提示之中"),
    "boundaries": (
        "The boundaries of the first {n} pieces are shown, the text after them whole.",
        "前 {n} 段逐个显示，其后的文本整体显示。",
    ),
    "note_blank": ("the tokenizer puts a blank before the text", "分词器会在文本前加一个空格"),
    "note_differs": (
        "the tokens decode to another text than the one they were made of; shown is what they decode to",
        "这些 token 解码后的文本与原文不同；这里显示解码结果",
    ),
    # --- legend
    "legend": ("Legend", "图例"),
    "below_one": ("below 1", "小于 1"),
    "above_one": ("above 1", "大于 1"),
    "stop": ("stop", "停止标记"),
    "control": ("control token", "控制 token"),
    "literal": ("control token read as text", "按普通文本处理的控制 token"),
    "literal_long": ("control token from outside, read as plain text", "来自外部的控制 token，按普通文本处理"),
    "line_break": ("line break", "换行"),
    "unseen": ("unseen character", "不可见字符"),
    "shades": ("shades alternate from token to token", "相邻 token 深浅交替"),
    "untrained": ("not trained", "不训练"),
    # --- the script: search, filters, list
    "search": ("Search text, file:line and codes", "搜索文本、文件:行号、问题代码"),
    "any": ("any", "不限"),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "f_file": ("File", "文件"),
    "f_problem": ("Problems", "问题"),
    "with_problems": ("with problems", "有问题"),
    "with_errors": ("with errors", "有错误"),
    "without_problems": ("without problems", "无问题"),
    "f_dialect": ("Trained as", "训练写法"),
    "f_tool": ("Calls tool", "调用工具"),
    "f_no_tool": ("no tool", "不调用工具"),
    "f_refused": ("Trained on", "参与训练"),
    "f_branches": ("Branches", "有分支"),
    "f_over": ("Over max_length", "超过 max_length"),
    "f_from": ("Length from", "长度 从"),
    "f_to": ("to", "到"),
    "sort": ("Order", "排序"),
    "s_row": ("as in the data", "按数据顺序"),
    "s_long": ("longest first", "从长到短"),
    "s_short": ("shortest first", "从短到长"),
    "s_problems": ("most problems first", "问题多的在前"),
    "reset": ("Reset", "清除"),
    "found": ("{n} of {all} rows on this page", "本页 {all} 条中的 {n} 条"),
    "none_found": ("No row on this page fits.", "本页没有符合条件的数据。"),
    "page_of": ("page {n} of {all}", "第 {n} / {all} 页"),
    "previous": ("Previous", "上一页"),
    "next": ("Next", "下一页"),
    "row": ("Row {n}", "第 {n} 条"),
    "previous_row": ("Previous row", "上一条"),
    "next_row": ("Next row", "下一条"),
    "no_such_row": (
        "Row {n} is not on this page. `actune inspect --row {n}` shows it.",
        "第 {n} 条不在本页。可用 `actune inspect --row {n}` 查看。",
    ),
    "no_preview": ("(no text)", "（无文本）"),
    "n_tokens": ("{n} tokens", "{n} 个 token"),
    "n_turns": ("turns: {n}", "{n} 轮"),
    "n_calls": ("calls: {n}", "{n} 次调用"),
    "n_errors": ("errors: {n}", "错误 {n}"),
    "n_warnings": ("warnings: {n}", "警告 {n}"),
    "keys": (
        "Keys: / search, j and k next and previous row, n and p next and previous page, 1 2 3 views, arrows between tokens.",
        "快捷键：/ 搜索，j / k 下一条 / 上一条，n / p 下一页 / 上一页，1 2 3 切换视图，方向键在 token 间移动。",
    ),
    # --- the script: one row
    "error": ("error", "错误"),
    "warning": ("warning", "警告"),
    "v_conversation": ("Conversation", "对话"),
    "v_tokens": ("Trained tokens", "训练的 token"),
    "v_turns": ("Turns as sent", "逐轮输入输出"),
    "tools": ("Tools offered: {n}", "可用工具：{n}"),
    "no_description": ("(no description)", "（无说明）"),
    "r_system": ("system", "系统"),
    "r_user": ("user", "用户"),
    "r_assistant": ("assistant", "助手"),
    "r_tool": ("observation", "工具结果"),
    "reasoning": ("reasoning", "思考"),
    "call": ("call", "调用"),
    "system_source": ("System text as in the source, with its list of tools", "数据中的系统文本（含工具列表）"),
    "unreadable_row": ("This row cannot be read as a conversation.", "这条数据无法解析为对话。"),
    "no_tree": (
        "This row is not trained on, so it has no tokens; the problems above say why.",
        "这条数据不参与训练，因此没有 token；原因见上面的问题。",
    ),
    "tree_line": (
        "Every turn goes on where the one before it ended, so the row is one line of {n} tokens.",
        "每一轮都接在上一轮之后，整条数据是一行 {n} 个 token。",
    ),
    "tree_branches": (
        "The template rewrites what stood before (it removes earlier reasoning, say), so turns part: {n} runs of tokens. Each begins after the token it names, and sees that token and all above it in its branch, nothing of the other branches.",
        "模板会改写之前的内容（例如去掉先前的思考），因此各轮会分叉，共 {n} 段。每一段接在所注明的 token 之后，只能看到该 token 及其所在分支上方的内容，看不到其他分支。",
    ),
    "run": ("Run {n}", "第 {n} 段"),
    "run_at": ("tokens {from} to {to}", "token {from} 至 {to}"),
    "run_after": ("begins after token {at} of run {run}", "接在第 {run} 段的 token {at} 之后"),
    "run_turns": ("read by turns {turns}", "属于第 {turns} 轮"),
    "skipped": ("{n} tokens, shown without boundaries", "{n} 个 token，不逐个显示"),
    "token_hint": (
        "Point at a token, or move with the arrow keys, to see its id, place and weight.",
        "将指针移到 token 上，或用方向键移动，可查看其 id、位置和权重。",
    ),
    "token_at": (
        "token {place} · id {id} · position {position} in its branch · {weight}",
        "token {place} · id {id} · 在其分支中的位置 {position} · {weight}",
    ),
    "only_trained": ("Show trained tokens only", "只显示训练的 token"),
    "untrained_cut": ("{n} tokens not trained", "{n} 个不训练的 token"),
    "stop_is": ("ends in {stop}", "以 {stop} 结束"),
    "trained_as": ("{n} tokens with weight {w}", "{n} 个 token 权重为 {w}"),
    "left_out": (
        "{n} characters left out of this page; --row N writes them",
        "本页省略了 {n} 个字符；用 --row N 可完整写出",
    ),
    "part_of_character": ("part of a character", "一个字符的一部分"),
}
