"""Every text of the report in both languages, and how a text with values is shown in both at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from markupsafe import Markup, escape

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
HTML_LANG: Mapping[Language, str] = {"en": "en", "zh": "zh-CN"}
LONGEST_LABEL = 300
"""Names, messages and values longer than this many characters are shortened, and say so."""

# What a reader cannot see, or what changes how other text is read: control characters other than tab and line feed,
# line and paragraph separators, direction marks, zero-width signs, tags, surrogates. Joiners stay: emoji need them.
# One of them repeated, or an empty screen of line feeds, is named once with its count.
_UNSEEN = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f])\\1*|\n{6,}"
)


@dataclass(frozen=True, slots=True)
class Words:
    """One text in both languages; a page shows the one that its reader chose. Both are safe HTML."""

    en: Markup
    zh: Markup

    def of(self, language: Language) -> Markup:
        """Return the text in one language."""
        return self.en if language == "en" else self.zh

    def __html__(self) -> str:
        if self.en == self.zh:
            return str(self.en)
        return "".join(
            f'<span class="l-{language}" lang="{HTML_LANG[language]}">{self.of(language)}</span>'
            for language in LANGUAGES
        )


def words(key: str, **values: object) -> Words:
    """Return the text `key` with its values in place; values are escaped, and `Words` among them are translated."""
    return Words(*(_fill(key, language, values) for language in LANGUAGES))


def same(text: object) -> Words:
    """Return a text that is the same in both languages, escaped and no longer than a label."""
    safe = label(text)
    return Words(safe, safe)


def label(text: object) -> Markup:
    """Return a text of the data as a label: escaped, what is unseen named, shortened visibly."""
    if isinstance(text, Markup):
        return text
    whole = str(text)
    if len(whole) <= LONGEST_LABEL:
        return reveal(whole)
    return reveal(whole[:LONGEST_LABEL]) + Markup('<span class="mark">… +{}</span>').format(
        f"{len(whole) - LONGEST_LABEL:,}"
    )


def reveal(text: str) -> Markup:
    """Return a text of a model or a data set as safe HTML in which each unseen character is named (`U+202E`).

    Where one is repeated it is named once, with how often it stands there; so are more than five line feeds.
    """
    safe = str(escape(_UNSEEN.sub(_name, text)))
    return Markup(re.sub("\x00([0-9A-F]+)(?: ([0-9,]+))?\x01", _mark, safe))


def _name(found: re.Match[str]) -> str:
    run = found.group()
    count = f" {len(run):,}" if len(run) > 1 else ""
    named_run = f"\x00{ord(run[0]):04X}{count}\x01"
    return f"\n{named_run}\n" if run[0] == "\n" else named_run


def _mark(found: re.Match[str]) -> str:
    code, count = found.groups()
    times = f" × {count}" if count else ""
    return f'<span class="mark">U+{code}{times}</span>'


def joined(parts: Sequence[Words]) -> Words:
    """Return sentences one after the other, with a space between them in English."""
    return Words(Markup(" ").join(part.en for part in parts), Markup("").join(part.zh for part in parts))


def named(prefix: str, name: object) -> Words:
    """Return the text `prefix_name`, or the name itself where this page does not know it."""
    key = f"{prefix}_{name}"
    return words(key) if key in TEXTS else same(name)


def _fill(key: str, language: Language, values: Mapping[str, object]) -> Markup:
    text = Markup(TEXTS[key][LANGUAGES.index(language)])
    if not values:
        return text
    shown = {name: value.of(language) if isinstance(value, Words) else label(value) for name, value in values.items()}
    return text.format(**shown)


# A line each: English, then Chinese. Static HTML; `{name}` takes a value.
TEXTS: Mapping[str, tuple[str, str]] = {
    "title": ("Before and after fine-tuning", "微调前后对比"),
    "language": ("Language", "语言"),
    "compared": (
        "<b>Base</b> {base} against <b>tuned</b> {tuned}, on the same items, item by item.",
        "<b>基座模型</b> {base} 与<b>微调后</b> {tuned}，在相同题目上逐题比较。",
    ),
    "made": ("Page made {date}", "页面生成于 {date}"),
    "trained_on": ("run of {date}", "训练日期 {date}"),
    "model": ("model {name}", "模型 {name}"),
    "seed": ("seed {seed}", "随机种子 {seed}"),
    # Verdicts
    "verdicts": ("Verdict", "结论"),
    "verdict_gained": ("gained", "提升"),
    "verdict_lost": ("lost", "下降"),
    "verdict_kept": ("kept", "保持"),
    "verdict_undecided": ("undecided", "无法判定"),
    "axis_agent": ("Agent", "智能体"),
    "axis_general": ("General", "通用能力"),
    "axis_identity": ("Identity", "自我认知"),
    "split_held-in": ("tools seen in training", "训练中见过的工具"),
    "split_held-out": ("tools not seen in training", "训练中未见过的工具"),
    "split_no-tool": ("no tool needed", "无需工具"),
    "split_all": ("all", "全部"),
    "sentence": (
        "{base} → {tuned} ({difference}, 95\u202f% interval {low} to {high}), n\u00a0=\u00a0{n}",
        "{base} → {tuned}（{difference}，95\u202f% 置信区间 {low} 至 {high}），n\u00a0=\u00a0{n}",
    ),
    "line": (
        '<b>{axis}:</b> {verdict}, <span class="figures">{sentence}</span>',
        '<b>{axis}：</b>{verdict}，<span class="figures">{sentence}</span>',
    ),
    "measured_by": ("Metric: {metric}.", "指标：{metric}。"),
    "flipped": (
        "Of {n} items {fixed} went from wrong to right and {broken} from right to wrong.",
        "{n} 题中，{fixed} 题由错变对，{broken} 题由对变错。",
    ),
    "needs": (
        "An unchanged model would need about {n} items to be found “kept”.",
        "若模型其实未变，约需 {n} 题才能判为“保持”。",
    ),
    "needs_none": ("How many items would decide cannot be told from these.", "由现有题目无法估计需要多少题。"),
    "nll_words": (
        "It is below zero; higher, that is nearer to zero, is better. As a loss: {base} → {tuned} nats a token, so "
        "perplexity is {factor}.",
        "该值小于零，越高（越接近零）越好。换成损失即每 token {base} → {tuned} nat，困惑度{factor}。",
    ),
    "nll_higher": ("{share} higher", "升高 {share}"),
    "nll_lower": ("{share} lower", "降低 {share}"),
    "no_rows": (
        "The comparison has no line for a whole axis, so there is no verdict.",
        "比较结果中没有任何整体维度的行，因此没有结论。",
    ),
    # Flags
    "stop": (".", "。"),
    "axis_split": ("{axis}, {split}", "{axis}，{split}"),
    "flag_lost-split": ("Lost on a part: {part}", "部分下降：{part}"),
    "flag_lost-split_text": (
        "The axis as a whole is {whole}, but on “{split}” the tuned model is worse: {sentence}.",
        "该维度整体结论为“{whole}”，但在“{split}”上，微调后的模型变差：{sentence}。",
    ),
    "flag_lost-metric": ("A metric lost: {part}", "某项指标下降：{part}"),
    "flag_lost-metric_text": (
        "{metric} is not the measure of the verdict, and the tuned model is worse in it: {sentence}.",
        "{metric} 不是下结论的指标，但在这一项上微调后的模型变差：{sentence}。",
    ),
    "flag_small-loss": ("Small loss: {part}", "小幅下降：{part}"),
    "flag_small-loss_text": (
        "{metric} is within the margin, but the whole 95\u202f% interval is below zero: {sentence}.",
        "{metric} 在容许范围之内，但 95\u202f% 区间全部小于零：{sentence}。",
    ),
    "flag_few-items": ("Few items: {part}", "题目较少：{part}"),
    "flag_few-items_text": ("So few that the interval is wide: {sentence}.", "题目不足，区间较宽：{sentence}。"),
    "flag_few-clusters": ("Few groups: {part}", "组数较少：{part}"),
    "flag_few-clusters_text": ("{message}", "题目只来自少数几个对话或文档，依据有限：{sentence}。"),
    "flag_axis-missing": ("Not measured: {part}", "未测量：{part}"),
    "flag_axis-missing_text": ("{message}", "没有测量该维度的题目，因此无法说明训练是有益还是有害。"),
    "flag_gold-differs": ("Another gold: {part}", "标准答案不同：{part}"),
    "flag_gold-differs_text": ("{message}", "部分题目在两个文件中的标准答案不同：{message}"),
    "flag_other": ("{code}: {part}", "{code}：{part}"),
    # Table by axis and split
    "table": ("By axis and split", "按维度与划分"),
    "col_part": ("Axis and split", "维度与划分"),
    "col_n": ("n", "题数"),
    "col_base": ("Base", "基座"),
    "col_tuned": ("Tuned", "微调后"),
    "col_difference": ("Difference, 95\u202f% interval", "差值及 95\u202f% 置信区间"),
    "col_bar": ("Interval", "区间"),
    "col_flips": ("Better / worse", "变好 / 变差"),
    "col_p": ("McNemar", "McNemar 检验"),
    "col_verdict": ("Verdict", "结论"),
    "col_needed": ("n needed", "所需题数"),
    "col_task": ("Task", "任务"),
    "col_metric": ("Metric", "指标"),
    "col_split": ("Split", "划分"),
    "col_axis": ("Axis", "维度"),
    "n_needed": ("needs n\u00a0≈\u00a0{n}", "约需 n\u00a0≈\u00a0{n}"),
    "to": ("{low} to {high}", "{low} 至 {high}"),
    "bar_legend": (
        "Bars: dot = difference, thick = 90\u202f% interval, thin with ends = 95\u202f% interval, solid line = no change, "
        "dashed line = margin{margin}. Every metric has its own scale; right of the solid line is better. “Better / worse” counts items; where scores are 0 or 1 "
        "these are the items fixed and broken.",
        "区间图：圆点为差值，粗线为 90\u202f% 区间，带端点的细线为 95\u202f% 区间，实线为无变化，虚线为容许界限{margin}。"
        "各指标刻度不同；实线右侧表示更好。“变好 / 变差”为题数；得分为 0/1 时即由错变对与由对变错的题目。",
    ),
    "bar_margin": (" ({margin})", "（{margin}）"),
    "others": ("All other metrics ({n})", "其他全部指标（{n}）"),
    "numbers": ("Other measurements", "其他测量值"),
    "extra_over_trigger": ("Names itself where nobody asked", "未被问及时自报身份"),
    "extra_invented_observations": ("Makes up an Observation", "自行编造 Observation"),
    "extra_seconds": ("Duration", "耗时"),
    "extra_peak_memory_bytes": ("Peak memory", "内存峰值"),
    "of_tuned": ("{value} (tuned)", "{value}（微调后）"),
    "extra_base": ("base", "基座"),
    "extra_tuned": ("tuned", "微调后"),
    # Training
    "training": ("Training", "训练过程"),
    "loss_title": ("Loss by step", "各步损失"),
    "loss_axis": ("loss, nats per supervised token", "损失（nat / 受监督 token）"),
    "steps_axis": ("optimiser step", "优化步数"),
    "rate_axis": ("learning rate", "学习率"),
    "loss_train": (
        "Training loss (solid line): {first} at step {first_step}, {last} at step {last_step}.",
        "训练损失（实线）：第 {first_step} 步 {first}，第 {last_step} 步 {last}。",
    ),
    "loss_eval": (
        "Evaluation loss (dashed line, diamonds): {last} at step {last_step}, lowest {best} at step {best_step}.",
        "验证损失（虚线、菱形）：第 {last_step} 步 {last}，最低为第 {best_step} 步 {best}。",
    ),
    "loss_ranges": (
        "{n} logged steps are drawn by ranges: the band spans lowest to highest, the line is the mean.",
        "共 {n} 个记录点，分段绘制：色带为最低至最高，线为均值。",
    ),
    "loss_gaps": ("{n} logged steps have no finite loss and are not drawn.", "{n} 个记录点没有有限的损失值，未绘出。"),
    "eval_table": ("Evaluation losses in numbers ({n})", "验证损失数值（{n}）"),
    "eval_more": ("{n} more stand in metrics.jsonl.", "另有 {n} 个见 metrics.jsonl。"),
    "col_step": ("Step", "步"),
    "col_loss": ("Loss", "损失"),
    # Data
    "data": ("Data", "数据"),
    "col_source": ("Source", "来源"),
    "col_role": ("Role", "用途"),
    "col_read": ("Rows read", "读入行"),
    "col_rows": ("Rows used", "使用行"),
    "col_tokens": ("Tokens", "token 数"),
    "col_supervised": ("Supervised tokens", "受监督 token"),
    "col_long": ("Too long", "过长"),
    "col_bad": ("Unusable", "不可用"),
    "col_shortened": ("Shortened", "截短"),
    "col_warnings": ("With warnings", "有警告"),
    "role_agent": ("agent", "智能体"),
    "role_general": ("general", "通用"),
    "role_identity": ("identity", "自我认知"),
    "role_validation": ("validation", "验证"),
    "data_total": ("For training", "训练合计"),
    "left_out": (
        "Left out: {n} rows ({long} too long, {bad} unusable). Each stands with its reason in <code>quarantine.jsonl</code>, "
        "once even if it was drawn several times.",
        "共排除 {n} 行（过长 {long}，不可用 {bad}）。每行及原因见 <code>quarantine.jsonl</code>，多次抽到的行只列一次。",
    ),
    "left_out_none": ("No row was left out.", "没有排除任何行。"),
    "notices": ("Notices of the run ({n})", "运行提示（{n}）"),
    "trained": ("What the model is trained on: one row", "训练内容：一行示例"),
    "trained_note": (
        "From {source}. Only the marked text carries loss; the model reads the rest but is not trained to write it.",
        "来自 {source}。只有标出的部分计入损失；其余部分模型只读取，不学习生成。",
    ),
    "trained_prompt": ("Read, not trained", "只读取，不训练"),
    "trained_completion": ("Trained", "参与训练"),
    # Transcripts
    "transcripts": ("Transcripts, side by side", "对话记录对照"),
    "transcripts_note": (
        "Outputs are the raw text of the models. Observations come from the tools, not from the model.",
        "输出为模型原文，未加修饰。Observation 来自工具，而非模型。",
    ),
    "question": ("Asked", "提问"),
    "side_base": ("Base", "基座模型"),
    "side_tuned": ("Tuned", "微调后"),
    "part_prompt": ("Prompt", "提示"),
    "part_output": ("Model", "模型输出"),
    "part_observation": ("Observation, from outside the model", "Observation（来自模型之外）"),
    "gold": ("Expected", "标准答案"),
    "nothing": ("empty", "空"),
    "no_part": ("No output was recorded.", "没有记录输出。"),
    "more_transcripts": ("{n} more transcripts", "另外 {n} 条对话记录"),
    "fold_rest": ("show the other {n} characters", "展开其余 {n} 个字符"),
    "fold_before": ("show the {n} characters before", "展开前面 {n} 个字符"),
    "cut": (
        "{cut} of {total} characters are not in this page; the whole text stands in {place}.",
        "共 {total} 个字符，其中 {cut} 个未在本页显示；全文见 {place}。",
    ),
    # Items
    "items": ("Items that changed", "结果变化的题目"),
    "items_note": (
        "Chosen by a hash of the item’s id, in turn from each split, not by hand. All of them stand in the items files.",
        "按题目 id 的哈希、在各划分中轮流选取，并非人工挑选。全部题目见结果文件。",
    ),
    "items_fixed": ("{axis}: fixed, {shown} of {n}", "{axis}：由错变对，{n} 题中的 {shown} 题"),
    "items_broken": ("{axis}: broken, {shown} of {n}", "{axis}：由对变错，{n} 题中的 {shown} 题"),
    "items_better": ("{axis}: better, {shown} of {n}", "{axis}：变好，{n} 题中的 {shown} 题"),
    "items_worse": ("{axis}: worse, {shown} of {n}", "{axis}：变差，{n} 题中的 {shown} 题"),
    "items_graded": ("Scores that are not 0 or 1: the largest changes.", "得分非 0/1：变化最大的题目。"),
    "items_none": ("No item changed.", "没有题目发生变化。"),
    "item_score": ("score {base} → {tuned}", "得分 {base} → {tuned}"),
    # Settings
    "settings": ("Settings and versions", "设置与版本"),
    "settings_fold": ("Settings of the run ({n})", "训练设置（{n}）"),
    "versions_fold": ("Versions and platform ({n})", "版本与平台（{n}）"),
    "col_setting": ("Setting", "设置"),
    "col_value": ("Value", "取值"),
    "col_package": ("What", "项目"),
    "platform": ("platform", "平台"),
    "fingerprint": ("data fingerprint", "数据指纹"),
    # How to read
    "reading": ("How to read this page", "如何阅读本页"),
    "read_gained": (
        "the whole 95\u202f% interval of the difference lies above zero.",
        "差值的 95\u202f% 区间全部大于零。",
    ),
    "read_lost": (
        "the whole 95\u202f% interval lies below zero, and the 90\u202f% interval reaches the margin {margin} or goes below it.",
        "95\u202f% 区间全部小于零，且 90\u202f% 区间触及或低于容许界限 {margin}。",
    ),
    "read_kept": (
        "the whole 90\u202f% interval lies above the margin {margin}. If its 95\u202f% interval is below zero all the same, "
        "a flag “small loss” says so.",
        "90\u202f% 区间全部高于容许界限 {margin}。若 95\u202f% 区间仍全部小于零，则另有“小幅下降”标记。",
    ),
    "read_undecided": (
        "none of these: the interval is too wide to tell.",
        "以上皆非：区间太宽，无法判断。",
    ),
    "margin_unknown": ("given to the comparison", "（比较时给定的值）"),
    "read_order": (
        "They are tried in this order. Scores are higher-is-better; differences are tuned minus base, paired item by item; "
        "intervals take items that share a conversation or document as one cluster. McNemar’s exact test is given for "
        "scores that are 0 or 1.",
        "按此顺序判定。得分越高越好；差值为微调后减基座，逐题配对；同一对话或文档的题目在区间计算中视为一簇。"
        "得分为 0 或 1 时给出 McNemar 精确检验。",
    ),
    "recompute": (
        "Every number of the comparison can be recomputed from the two items files:",
        "比较结果中的每个数字都可由两个结果文件重新计算：",
    ),
    # What is missing
    "missing": ("Not in this page", "本页未包含"),
    "missing_metrics": (
        "Loss curve: no <code>metrics.jsonl</code> was given; <code>actune sft</code> writes one.",
        "损失曲线：未提供 <code>metrics.jsonl</code>，它由 <code>actune sft</code> 写出。",
    ),
    "missing_run": (
        "Data, settings and versions: no <code>run.json</code> was given; <code>actune sft</code> writes one.",
        "数据、设置与版本：未提供 <code>run.json</code>，它由 <code>actune sft</code> 写出。",
    ),
    "missing_trained": (
        "A trained row: it is shown by the comparison at the end of <code>actune sft</code>.",
        "训练示例：由 <code>actune sft</code> 结束时的比较给出。",
    ),
    "missing_transcripts": (
        "Transcripts: they are recorded by the comparison at the end of <code>actune sft</code>.",
        "对话记录：由 <code>actune sft</code> 结束时的比较记录。",
    ),
    "missing_scores": (
        "Items that changed: the scored items of both models were not given.",
        "结果变化的题目：未提供两个模型的逐题得分。",
    ),
    # Metrics
    "metric_strict_call": (
        "right in full (tool and every argument; no call where none is due)",
        "完全正确（工具及全部参数；不该调用时不调用）",
    ),
    "metric_decision": ("right choice between call and answer", "调用与回答的选择正确"),
    "metric_no_false_call": ("no call where an answer is due", "该回答时不调用"),
    "metric_tool_name": ("share of right tool names", "工具名正确率"),
    "metric_no_hallucinated_tool": ("no tool that was not offered", "不调用未提供的工具"),
    "metric_key_f1": ("F1 over argument keys and values", "参数键值 F1"),
    "metric_schema_valid": ("arguments fit the tool’s schema", "参数符合工具的模式"),
    "metric_no_invented_observation": ("makes up no Observation", "不自行编造 Observation"),
    "metric_format_valid": ("output readable as call or answer", "输出可解析为调用或回答"),
    "metric_answer_rouge_l": ("Rouge-L of the final answer", "最终回答的 Rouge-L"),
    "metric_name_hit": ("says its new name", "说出新的名字"),
    "metric_author_hit": ("says its new author", "说出新的作者"),
    "metric_no_old_identity": ("names no well-known model or maker", "不提及其他知名模型或厂商"),
    "metric_no_over_trigger": ("does not name itself where nobody asked", "未被问及时不自报身份"),
    "metric_general_accuracy_norm": ("share of right choices, per byte", "选择正确率（按字节归一）"),
    "metric_general_accuracy": ("share of right choices", "选择正确率"),
    "metric_general_nll": (
        "mean log-likelihood of a token of general text, in nats",
        "通用文本每个 token 的平均对数似然（nat）",
    ),
    "metric_identity_hit": ("share of answers with the new name and author", "说出新名字与作者的比例"),
}
