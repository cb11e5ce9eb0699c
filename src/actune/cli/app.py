"""The commands, as cyclopts sees them. They are named by import string, so that help loads none of their work."""

from __future__ import annotations

import re

from cyclopts import App, CycloptsError, Parameter

from actune import __version__
from actune.core.errors import ConfigError

_HELP = """Fine-tune language models into tool-using agents: train exactly what the agent will see.

`actune COMMAND --help` explains a command. Exit code: 0 done, 1 problems found, 2 the request was wrong.
"""
# name -> (help in the list of commands, usage)
COMMANDS = {
    "demo": ("See the whole thing work: a tiny model becomes an agent in a few minutes.", "[--out runs/demo] ..."),
    "sft": ("Fine-tune a model on agent, general and identity rows.", "[RECIPE.yaml] [--flag value ...]"),
    "check": ("Check conversation files, with a model's chat template if one is given.", "DATA... [--model DIR] ..."),
    "inspect": ("Show a row as the model is trained on it, with trained text marked.", "--model DIR --data FILE ..."),
    "tokens": ("Write the token ids and training targets of every row.", "--model DIR --data FILE... --out OUT ..."),
    "convert": ("Rewrite a conversation file in another format.", "IN OUT --to NAME ..."),
    "run": (
        "Let an agent do a task, or a file of tasks.",
        "--model DIR --tools SPEC --prompt TEXT | --tasks FILE --out OUT ...",
    ),
    "chat": ("Talk with an agent in the terminal.", "--model DIR --tools SPEC ..."),
    "serve": ("Answer OpenAI's API with a model, and with its base beside it.", "--model DIR [--port 8000] ..."),
    "eval": (
        "Measure a model on tasks, one scored item a line.",
        "--model DIR --tasks TASKS.yaml|NAME... --out OUT ...",
    ),
    "compare": ("Compare two measurements of the same items.", "BASE.jsonl TUNED.jsonl ..."),
    "export": (
        "Write a trained model in a form that others load.",
        "--model DIR --to merged|gguf|ollama|adapter --out DIR ...",
    ),
}

_MODULES = {
    "demo": "actune.cli.demo",
    "sft": "actune.cli.sft",
    "run": "actune.cli.agents",
    "chat": "actune.cli.agents",
    "serve": "actune.cli.serving",
    "eval": "actune.cli.measuring",
    "compare": "actune.cli.measuring",
}


def build_app() -> App:
    """Return the cyclopts application with every command registered and none imported."""
    app = App(
        name="actune",
        help=_HELP,
        version=__version__,
        usage="Usage: actune COMMAND [ARGUMENTS]",
        help_format="plaintext",
        help_formatter="plain",  # a third faster than tables, which leaves room under 0.3 s on slow machines
        # Flags keep their underscores (cyclopts accepts dashes too), and only declared flags exist: no --no-x, --empty-x.
        default_parameter=Parameter(name_transform=lambda name: name, negative=()),
    )
    for name, (summary, usage) in COMMANDS.items():
        module = _MODULES.get(name, "actune.cli.commands")
        # `eval` is a function of Python's; nothing is named so here.
        app.command(
            f"{module}:{'evaluate' if name == 'eval' else name}",
            name=name,
            help=summary,
            usage=f"Usage: actune {name} {usage}",
        )
    return app


def run_app(words: list[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        ConfigError: An unknown command or flag, or a value of the wrong type.
        ActuneError: Whatever the command raises.
    """
    app = build_app()
    app.suppress_keyboard_interrupt = False  # one policy for all commands, in failures.py
    try:
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        name = words[0] if words and words[0] in COMMANDS else ""
        raise ConfigError(
            _explain_missing(str(error), words), fix=f"see `actune {name} --help`".replace("  ", " ")
        ) from error
    return result if isinstance(result, int) else 0


def _explain_missing(message: str, words: list[str]) -> str:
    """Tell a flag that was left out from one that was given without its value; cyclopts says the same of both."""
    match = re.match(r'Command ".*?" parameter (\S+) requires an argument\.', message)
    if match is None:
        return message
    name = match.group(1)
    given = any(word.split("=")[0].lstrip("-").replace("-", "_") == name.lstrip("-") for word in words)
    return f"{name} {'needs a value' if given else 'is missing'}.{message[match.end() :]}"
