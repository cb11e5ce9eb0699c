"""What each command does, one file a command. `sft.py` is the whole story: rows in, adapter and report out.

Nothing below imports this package; it alone knows all parts. torch is imported only where weights are needed.
"""

from actune.recipes.agents import Choice
from actune.recipes.chat import chat
from actune.recipes.check import check
from actune.recipes.compare import compare
from actune.recipes.convert import convert
from actune.recipes.demo import demo
from actune.recipes.eval import evaluate
from actune.recipes.export import export
from actune.recipes.inspect import inspect
from actune.recipes.run import run
from actune.recipes.serve import serve
from actune.recipes.sft import sft
from actune.recipes.tokens import tokens

__all__ = [
    "Choice",
    "chat",
    "check",
    "compare",
    "convert",
    "demo",
    "evaluate",
    "export",
    "inspect",
    "run",
    "serve",
    "sft",
    "tokens",
]
