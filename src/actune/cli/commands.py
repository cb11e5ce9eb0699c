"""The commands besides `sft`. Each names its flags and makes one call; the work is imported when it starts."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

# None: as the run that the model comes from, else `auto` and `as-data`.
Dialect = Annotated[
    Literal["auto", "react", "react_zh", "chat"] | None,
    Parameter(show_choices=False, help="auto (default, as the row), react, react_zh or chat."),
]
Now = Annotated[date | None, Parameter(help="Date that templates see, YYYY-MM-DD. Default: today.")]
FormatName = Annotated[str | None, Parameter(name="--format", help="Format of the rows. Default: detected per file.")]
ChatTemplate = Annotated[str | None, Parameter(help="Jinja file used instead of the model's.")]
HistoryReasoning = Annotated[
    Literal["as-data", "drop"] | None, Parameter(show_choices=False, help="as-data (default), or drop it.")
]
RawControlTokens = Annotated[bool, Parameter(help="Do not neutralise control tokens in text.")]
AllowLoss = Annotated[
    list[str] | None, Parameter(consume_multiple=True, help="Losses that are no errors: reasoning, content ...")
]
TemplateVariables = Annotated[
    list[str] | None, Parameter(consume_multiple=True, help="For the template, NAME=VALUE: enable_thinking=false.")
]
LossWeights = Annotated[
    list[str] | None, Parameter(consume_multiple=True, help="Of parts, NAME=VALUE: thought=0.5 action=2 stop=1.")
]
Overwrite = Annotated[bool, Parameter(help="Replace what is there already.")]
Model = Annotated[str, Parameter(help="Folder or hub id, or a run folder of sft.")]


def tokens(  # noqa: PLR0913 - one parameter a flag
    *,
    model: Model,
    data: Annotated[list[str], Parameter(consume_multiple=True, help="Conversation files.")],
    out: Annotated[Path, Parameter(help="File to write, one JSON object a row.")],
    dialect: Dialect = None,
    now: Now = None,
    format_name: FormatName = None,
    chat_template: ChatTemplate = None,
    history_reasoning: HistoryReasoning = None,
    raw_control_tokens: RawControlTokens = False,
    max_length: Annotated[int, Parameter(help="Longer rows become errors; -1: no limit.")] = -1,
    allow_loss: AllowLoss = None,
    template_variables: TemplateVariables = None,
    loss_weights: LossWeights = None,
) -> int:
    """Write the token ids and training targets of every row. Needs tokenizer files only."""
    from actune import recipes

    return recipes.tokens(
        model=model,
        data=data,
        dialect=dialect,
        now=now,
        out=out,
        format_name=format_name,
        chat_template=chat_template,
        history_reasoning=history_reasoning,
        raw_control_tokens=raw_control_tokens,
        max_length=max_length,
        allow_loss=allow_loss or (),
        template_variables=template_variables or (),
        loss_weights=loss_weights or (),
    )


def inspect(  # noqa: PLR0913 - one parameter a flag
    *,
    model: Model,
    data: Annotated[list[str], Parameter(consume_multiple=True, help="Conversation files.")],
    row: Annotated[int | None, Parameter(help="Row to show, from 1. Default: the first rows.")] = None,
    html: Annotated[Path | None, Parameter(help="Write one self-contained page instead, with statistics.")] = None,
    limit: Annotated[int, Parameter(help="Most rows on the page; some of every problem are among them.")] = 200,
    max_length: Annotated[
        int | None, Parameter(help="Longer rows are marked; -1: none. Default: as the run.", show_default=False)
    ] = None,
    dialect: Dialect = None,
    now: Now = None,
    format_name: FormatName = None,
    chat_template: ChatTemplate = None,
    history_reasoning: HistoryReasoning = None,
    raw_control_tokens: RawControlTokens = False,
    allow_loss: AllowLoss = None,
    template_variables: TemplateVariables = None,
    loss_weights: LossWeights = None,
) -> int:
    """Show a row as the model is trained on it: prompt and target of every turn, trained text marked."""
    from actune import recipes

    return recipes.inspect(
        model=model,
        data=data,
        row=row,
        html=html,
        limit=limit,
        max_length=max_length,
        dialect=dialect,
        now=now,
        format_name=format_name,
        chat_template=chat_template,
        history_reasoning=history_reasoning,
        raw_control_tokens=raw_control_tokens,
        allow_loss=allow_loss or (),
        template_variables=template_variables or (),
        loss_weights=loss_weights or (),
    )


def check(  # noqa: PLR0913 - one parameter a flag
    data: Annotated[list[str], Parameter(name="DATA", help="Conversation files.")],
    /,
    *,
    model: Annotated[str | None, Parameter(help="Check also that this model's template loses nothing.")] = None,
    dialect: Dialect = None,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the findings as JSON.")] = False,
    format_name: FormatName = None,
    chat_template: ChatTemplate = None,
    now: Now = None,
    allow_loss: AllowLoss = None,
    template_variables: TemplateVariables = None,
    loss_weights: LossWeights = None,
    against: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, help="Held-out data: rows with a prompt of it are errors (eval-overlap)."),
    ] = None,
    fix: Annotated[
        Path | None,
        Parameter(name="--fix", help="Write the rows without errors to this file, repaired where that is safe."),
    ] = None,
    overwrite: Overwrite = False,
) -> int:
    """Check conversation files. Exit code 1 if there is any error; with --fix, if rows had to be left out."""
    from actune import recipes

    return recipes.check(
        data=data,
        model=model,
        dialect=dialect,
        json_output=json_output,
        format_name=format_name,
        chat_template=chat_template,
        now=now,
        allow_loss=allow_loss or (),
        template_variables=template_variables or (),
        loss_weights=loss_weights or (),
        against=against or (),
        fix=fix,
        overwrite=overwrite,
    )


def convert(  # noqa: PLR0913 - one parameter a flag
    source: Annotated[Path, Parameter(name="IN", help="File to read.")],
    out: Annotated[Path, Parameter(name="OUT", help="File to write.")],
    /,
    *,
    to: Annotated[str, Parameter(help="Name of the format to write.")],
    dialect: Annotated[
        Literal["react", "react_zh", "chat"] | None,
        Parameter(
            show_choices=False,
            help="Calls as ReAct text (react, react_zh) or native (chat). Default: native where the format holds them.",
        ),
    ] = None,
    format_name: FormatName = None,
    overwrite: Overwrite = False,
    stop_reason: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, help="Of traces: only those that ended so; answer: with a final answer."),
    ] = None,
    bad_steps: Annotated[
        Literal["keep", "untrain", "drop"],
        Parameter(help="Traces with errors or repaired arguments: as others, without training those steps, or not."),
    ] = "keep",
    min_steps: Annotated[int | None, Parameter(help="Of traces: only those with so many outputs or more.")] = None,
    max_steps: Annotated[int | None, Parameter(help="Of traces: only those with so many outputs or fewer.")] = None,
    with_tools: Annotated[
        list[str] | None, Parameter(consume_multiple=True, help="Of traces: only those that call each of these tools.")
    ] = None,
    keep_if: Annotated[
        Path | None, Parameter(help="Python file with def keep(trace): True, False, or a score; it is executed.")
    ] = None,
    scores: Annotated[Path | None, Parameter(help="Scored items (actune eval) with the ids of the tasks.")] = None,
    metric: Annotated[str | None, Parameter(help="Which score, where --scores has several.")] = None,
    min_score: Annotated[float | None, Parameter(help="Of traces: only those with this score or more.")] = None,
    unique: Annotated[bool, Parameter(negative="", help="Of traces with equal conversations: only the first.")] = False,
    per_task: Annotated[
        int | None, Parameter(help="Of the traces of a task: so many, best score first, then fewest steps and tokens.")
    ] = None,
) -> int:
    """Rewrite a conversation file in another format, ReAct text as native calls or back; traces as training rows."""
    from actune import recipes
    from actune.recipes.traces import TraceChoice

    choice = TraceChoice(
        stop_reason=tuple(stop_reason or ()),
        bad_steps=bad_steps,
        min_steps=min_steps,
        max_steps=max_steps,
        with_tools=tuple(with_tools or ()),
        keep_if=keep_if,
        scores=scores,
        metric=metric,
        min_score=min_score,
        unique=unique,
        per_task=per_task,
    )
    return recipes.convert(
        source=source,
        out=out,
        to=to,
        dialect=dialect,
        format_name=format_name,
        overwrite=overwrite,
        traces=choice,
    )


def export(  # noqa: PLR0913 - one parameter a flag
    *,
    model: Model,
    to: Annotated[
        Literal["merged", "gguf", "ollama", "adapter"],
        Parameter(
            show_choices=False,
            help="merged: a model folder. gguf: a file for llama.cpp. ollama: that with a Modelfile. adapter: as it is.",
        ),
    ],
    out: Annotated[Path, Parameter(help="Folder to write.")],
    adapter: Annotated[str | None, Parameter(help="Adapter folder. Default: that of the run folder.")] = None,
    gguf_type: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"] | None,
        Parameter(show_choices=False, help="Numbers of GGUF: f32, f16, bf16, q8_0. Default: as they are stored."),
    ] = None,
    verify: Annotated[
        bool, Parameter(help="Compare logits and make one tool call; where something differs, keep nothing.")
    ] = False,
    push_to_hub: Annotated[str | None, Parameter(help="Verify, then upload: hf:owner/name, ms:owner/name.")] = None,
    public: Annotated[bool, Parameter(help="A repository that is new is public. Default: private.")] = False,
    card_language: Annotated[Literal["en", "zh"], Parameter(show_choices=False, help="Of README.md: en or zh.")] = "en",
    overwrite: Overwrite = False,
) -> int:
    """Write a trained model in a form that others load, with a model card."""
    from actune import recipes

    return recipes.export(
        model=model,
        adapter=adapter,
        to=to,
        out=out,
        verify=verify,
        overwrite=overwrite,
        gguf_type=gguf_type,
        push_to_hub=push_to_hub,
        public=public,
        card_language=card_language,
    )
