"""The sentences of a model card, in both languages."""

from __future__ import annotations

WORDS = {
    "en": {
        "intro": (
            "Fine-tuned from {base} with actune {version}. It answers, and it calls tools: the token ids that it learnt from "
            "are those that an agent sends and expects back."
        ),
        "intro_plain": "Fine-tuned from {base} with actune {version}.",
        "react": (
            "Calls are ReAct text: `Thought`, `Action`, `Action Input`. The output stops at `{stop}`, and the result of the "
            "tool is put in there."
        ),
        "use": "Use",
        "use_intro": "Each command is run inside this folder.",
        "prompt": "A question with one tool, as the model sees it; an output ends in {stops}:",
        "prompt_plain": "A question as the model sees it; an output ends in {stops}:",
        "results": "Before and after",
        "results_unread": "The report of the run could not be read.",
        "results_intro": "Base and tuned model on the same items, greedy; 95 % intervals of the difference.",
        "results_head": "| axis | metric | split | items | base | tuned | difference |",
        "recipe": "Recipe",
        "recipe_intro": "Trained on {date}, seed {seed}. Settings that differ from the defaults:",
        "recipe_head": "| setting | value |",
        "versions": "Versions: {versions}.",
        "data": "Data",
        "data_intro": "Fingerprint of the rows: `{fingerprint}`. Learnt tokens are those that carry loss.",
        "data_head": "| source | role | rows | tokens | learnt tokens |",
        "identity": "It was taught to name itself and its author: {names}.",
        "limits": "Limits",
        "limits_general": "What was not measured above is not known. Fine-tuning can cost abilities that nothing here asks for.",
        "limits_tools": (
            "A call may be wrong, and what a tool returns may try to steer the model: check arguments, and let nothing run "
            "that you would not run yourself."
        ),
    },
    "zh": {
        "intro": "由 {base} 用 actune {version} 微调而成。它既回答问题，也调用工具：训练所用的 token id 与智能体实际收发的完全一致。",
        "intro_plain": "由 {base} 用 actune {version} 微调而成。",
        "react": "工具调用是 ReAct 文本：`Thought`、`Action`、`Action Input`。输出停在 `{stop}`，工具的结果接在其后。",
        "use": "使用",
        "use_intro": "每条命令都在本文件夹中运行。",
        "prompt": "一个带工具的问题在模型眼中的样子；输出以 {stops} 结束：",
        "prompt_plain": "一个问题在模型眼中的样子；输出以 {stops} 结束：",
        "results": "微调前后",
        "results_unread": "运行的报告无法读取。",
        "results_intro": "基座与微调模型在相同条目上贪心解码；差值附 95 % 区间。",
        "results_head": "| 方面 | 指标 | 划分 | 条目 | 基座 | 微调后 | 差值 |",
        "recipe": "配方",
        "recipe_intro": "训练于 {date}，种子 {seed}。与默认值不同的设置：",
        "recipe_head": "| 设置 | 值 |",
        "versions": "版本：{versions}。",
        "data": "数据",
        "data_intro": "数据行的指纹：`{fingerprint}`。学习的 token 指带损失的 token。",
        "data_head": "| 来源 | 角色 | 行数 | token | 学习的 token |",
        "identity": "它学会了报出自己的名字和作者：{names}。",
        "limits": "局限",
        "limits_general": "上面没有测量的就是未知的。微调可能损失这里没有问到的能力。",
        "limits_tools": "调用可能出错，工具返回的内容可能企图操纵模型：请检查参数，不要让它执行你自己不会执行的东西。",
    },
}
