"""`actune run` and `actune chat`: their flags, and one call each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from actune.cli.commands import (
    ChatTemplate,
    Dialect,
    HistoryReasoning,
    Now,
    Overwrite,
    RawControlTokens,
    TemplateVariables,
)

if TYPE_CHECKING:
    from actune.recipes import Choice

Tools = Annotated[
    list[str] | None,
    Parameter(
        consume_multiple=True,
        help="A Python file, an MCP configuration (mcpServers), manual or manual:FILE (a person answers), record:FILE, or "
        "a file that describes tools. Of several the first that knows a tool describes it, the last answers.",
    ),
]
Allow = Annotated[
    list[str] | None,
    Parameter(consume_multiple=True, help="Names of the only tools that may be called, or patterns: 'files__*'."),
]
Deny = Annotated[
    list[str] | None,
    Parameter(consume_multiple=True, help="Tools that may not be called; the model is not told of them."),
]
Ask = Annotated[
    list[str] | None,
    Parameter(consume_multiple=True, help="Tools that you are asked about before each call, or all."),
]
Adapter = Annotated[str | None, Parameter(help="Adapter folder. Default: that of the run folder.")]
Base = Annotated[bool, Parameter(help="Leave the adapter out: the model before training.")]
DtypeName = Annotated[
    Literal["AUTO", "bf16", "fp16", "fp32"], Parameter(show_choices=False, help="AUTO, bf16, fp16 or fp32.")
]
System = Annotated[str, Parameter(help="System text; it may hold an API list itself.")]
MaxSteps = Annotated[int, Parameter(help="Outputs of the model in one task.")]
MaxTokens = Annotated[int, Parameter(help="Tokens of one output.")]
MaxTotal = Annotated[int, Parameter(help="Tokens of all outputs of a task.")]
MaxSeconds = Annotated[float, Parameter(help="Seconds for a task.")]
ToolSeconds = Annotated[float, Parameter(help="Seconds for a call; then the observation says so.")]
ToolCharacters = Annotated[int, Parameter(help="Longest observation; what is cut off is said in it.")]
MaxContext = Annotated[
    int | None,
    Parameter(
        help="Tokens of a prompt and its output. Default: the model's; a run trained with turns: its max_length."
    ),
]
History = Annotated[
    Literal["turns", "error"],
    Parameter(show_choices=False, help="What does not fit: turns (drop the oldest whole turns) or error."),
]
MaxRepeats = Annotated[int, Parameter(help="Equal rounds of calls and observations that end a task; 0: none.")]
Temperature = Annotated[float, Parameter(help="0: the likeliest token always.")]
TopP = Annotated[float, Parameter(help="Sample from the likeliest tokens up to this probability.")]
Seed = Annotated[int, Parameter(help="Of sampling.")]


ModelName = Annotated[str | None, Parameter(help="Folder or hub id, or a run folder of sft. With --server: see there.")]
Server = Annotated[
    str | None,
    Parameter(
        help="OpenAI-compatible server, http://127.0.0.1:8000/v1. With --model prompts are written here, by its tokenizer "
        "and template, and the server continues them; without, the server writes them."
    ),
]
ServerModel = Annotated[str | None, Parameter(help="Name of the model there. Default: the only one.")]
ServerApiName = Annotated[
    Literal["auto", "completions", "chat"],
    Parameter(show_choices=False, help="completions (prompts from here) or chat. auto: by --model."),
]
KeyVariable = Annotated[str | None, Parameter(help="Environment variable with the server's API key.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFlags:
    """What `run` and `chat` share: the model, how text is written for it, how it generates, its tools."""

    model: ModelName = None
    tools: Tools = None
    allow: Allow = None
    deny: Deny = None
    ask: Ask = None
    system: System = ""
    adapter: Adapter = None
    base: Base = False
    dtype: DtypeName = "AUTO"
    max_steps: MaxSteps = 10
    max_tokens: MaxTokens = 1024
    max_total_tokens: MaxTotal = 8192
    max_seconds: MaxSeconds = 600.0
    max_context: MaxContext = None
    history: History = "turns"
    max_repeats: MaxRepeats = 3
    tool_seconds: ToolSeconds = 30.0
    tool_characters: ToolCharacters = 20_000
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    seed: Seed = 0
    server: Server = None
    server_model: ServerModel = None
    server_api: ServerApiName = "auto"
    api_key_env: KeyVariable = None
    dialect: Dialect = None
    chat_template: ChatTemplate = None
    now: Now = None
    history_reasoning: HistoryReasoning = None
    raw_control_tokens: RawControlTokens = False
    template_variables: TemplateVariables = None

    def choice(self) -> Choice:
        """Return the flags as the recipes take them."""
        from actune import recipes
        from actune.agents.engines.engine import Sampling
        from actune.agents.loop import Limits
        from actune.agents.tools.permission import Permission

        return recipes.Choice(
            model=self.model,
            adapter=self.adapter,
            base=self.base,
            dtype=self.dtype,
            dialect=self.dialect,
            chat_template=self.chat_template,
            now=self.now,
            history_reasoning=self.history_reasoning,
            raw_control_tokens=self.raw_control_tokens,
            template_variables=tuple(self.template_variables or ()),
            tools=tuple(self.tools or ()),
            permission=Permission(
                allow=tuple(self.allow or ()), deny=tuple(self.deny or ()), ask=tuple(self.ask or ())
            ),
            tool_seconds=self.tool_seconds,
            tool_characters=self.tool_characters,
            limits=Limits(
                steps=self.max_steps,
                tokens=self.max_total_tokens,
                output_tokens=self.max_tokens,
                seconds=self.max_seconds,
                repeats=self.max_repeats,
            ),
            max_context=self.max_context,
            history=self.history,
            sampling=Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed),
            server=self.server,
            server_model=self.server_model,
            server_api=self.server_api,
            api_key_env=self.api_key_env,
        )


_DEFAULTS = AgentFlags()


def run(  # noqa: PLR0913 - one parameter a flag
    *,
    flags: AgentFlags = _DEFAULTS,
    prompt: Annotated[str | None, Parameter(help="One task; it is shown as it goes.")] = None,
    tasks: Annotated[
        Path | None, Parameter(help='File of tasks: {"prompt", "id", "system"}, or conversations.')
    ] = None,
    out: Annotated[Path | None, Parameter(help="File of traces to write, one a line.")] = None,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the trace as JSON.")] = False,
    parallel: Annotated[int, Parameter(help="Tasks of a file done at a time.")] = 8,
    samples: Annotated[int, Parameter(help="Traces of each task, with the seeds --seed, --seed + 1 ...")] = 1,
    resume: Annotated[bool, Parameter(help="Go on with an interrupted file of traces.")] = False,
    overwrite: Overwrite = False,
) -> int:
    """Let an agent do a task, or a file of tasks."""
    from actune import recipes

    return recipes.run(
        flags.choice(),
        prompt=prompt,
        tasks=tasks,
        system=flags.system,
        out=out,
        json_output=json_output,
        parallel=parallel,
        samples=samples,
        resume=resume,
        overwrite=overwrite,
    )


def chat(*, flags: AgentFlags = _DEFAULTS) -> int:
    """Talk with an agent in the terminal; /help there lists the commands."""
    from actune import recipes

    return recipes.chat(flags.choice(), system=flags.system)
