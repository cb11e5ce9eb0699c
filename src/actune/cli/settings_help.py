"""The text of `actune sft --help`: every setting, from the same catalogue that the loaders use."""

from __future__ import annotations

import textwrap

from actune.config.fields import BARE_FLAGS, FLAG_ALIASES, Leaf, describe_group, list_groups, list_leaves

WIDTH = 100

_INTRO = """\
Usage: actune sft [RECIPE.yaml] [--flag value ...]
       torchrun --nproc_per_node N -m actune sft [RECIPE.yaml] [--flag value ...]

Fine-tune a model. A recipe holds the settings below by group (training: {learning_rate: 5e-5});
each is also a flag, which wins over the recipe. In flags - and _ are the same. Every problem of
recipe and flags is reported at once. Relative paths start at the current folder.
Exit code: 0 done, 1 the work found problems, 2 the request was wrong.
"""


def write_help() -> str:
    """Return the help text, at most `WIDTH` columns wide."""
    parts = [_INTRO]
    for group in list_groups():
        parts.append(f"\n{group}: {describe_group(group)}\n")
        parts += [_write_leaf(leaf) for leaf in list_leaves() if leaf.group == group]
    return "".join(parts)


def _write_leaf(leaf: Leaf) -> str:
    names = [f"--{leaf.name}", *(f"--{alias}" for alias, name in FLAG_ALIASES.items() if name == leaf.name)]
    head = f"{', '.join(names)}  {leaf.type_text}"
    if leaf.default_text:
        head += f"  [{leaf.default_text}]"
    body = leaf.description
    if leaf.name in BARE_FLAGS:
        body += f" Without a value: {BARE_FLAGS[leaf.name]}."
    lines = textwrap.wrap(head, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    lines += textwrap.wrap(body, WIDTH, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"
