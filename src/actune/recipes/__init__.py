"""What each command does, one file a command. `sft.py` is the whole story: rows in, adapter out.

Nothing below imports this package; it alone knows all parts. torch is imported only where weights are needed.
"""

from actune.recipes.check import check
from actune.recipes.convert import convert
from actune.recipes.export import export
from actune.recipes.inspect import inspect
from actune.recipes.sft import sft
from actune.recipes.tokens import tokens

__all__ = ["check", "convert", "export", "inspect", "sft", "tokens"]
