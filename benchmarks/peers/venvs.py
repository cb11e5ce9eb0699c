"""One virtual environment a peer: each has its own pins, and none may touch actune's.

Every environment gets the same torch (the CPU build where pip finds one) before anything else. What a peer asks for but
does not need to train text on a CPU is left out where it cannot be had for this torch, and the reason stands beside it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a peer is installed.

    `package`: name and version; `left_out`: requirements not installed (name -> reason); with any, the package itself
    is installed without pip's resolution and the rest of its requirements by themselves. `more`: installed besides;
    `alone`: installed without their own requirements; `stubs`: empty modules in the place of what is left out, where
    the package imports it without using it.
    """

    package: str
    left_out: dict[str, str] | None = None
    more: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()


RECIPES = {
    "trl": Recipe(package="trl==1.16.0", more=("peft",)),
    "ms-swift": Recipe(package="ms-swift==4.6.0"),
    "llama-factory": Recipe(
        package="llamafactory==0.9.5",
        left_out={
            "torchvision": "its operators are built for another torch; only images need it",
            "torchaudio": "its library links against CUDA; imported at start-up, used for sound only",
        },
        stubs=("torchaudio",),
    ),
    "unsloth": Recipe(
        package="unsloth==2026.10.9",
        left_out={
            "unsloth_zoo": "installed without its requirements, as unsloth itself",
            "torchvision": "its operators are built for another torch; only images need it",
            "xformers": "needs the CUDA build of torch; the CPU backend does not import it",
            "triton-windows": "another system",
            "mlx": "another system",
        },
        alone=("unsloth_zoo==2026.10.9",),
    ),
}
# Not a peer, but what most of them prepare rows with.
RECIPES["datasets"] = Recipe(package="datasets==5.2.0", more=("transformers>=5.17,<6", "jinja2"))
TORCH = "torch==2.13.0"


def make_venv(peer: str, folder: Path, *, python: str = sys.executable) -> Path:
    """Return the Python of a peer's environment, which is made unless it is there.

    Raises:
        subprocess.CalledProcessError: pip failed; what it printed is on the terminal.
    """
    home = folder / peer
    own, stamp = home / "bin" / "python", home / ".made"
    if stamp.is_file():
        return own
    print(f"making the environment of {peer} in {home} ...", file=sys.stderr, flush=True)
    recipe = RECIPES[peer]
    subprocess.run([python, "-m", "venv", "--clear", str(home)], check=True)
    constraints = home / "constraints.txt"
    constraints.write_text(TORCH + "\n", encoding="utf-8")
    _pip(own, TORCH, "numpy")
    if recipe.left_out is None:
        _pip(own, "-c", str(constraints), recipe.package, *recipe.more)
    else:
        _pip(own, "--no-deps", recipe.package, *recipe.alone)
        names = [recipe.package, *recipe.alone]
        _pip(own, "-c", str(constraints), *_list_needs(home, names, recipe.left_out), *recipe.more)
    for name in recipe.stubs:
        for site in (home / "lib").glob("python*/site-packages"):
            (site / name).mkdir(exist_ok=True)
            (site / name / "__init__.py").write_text('"""Imported and not used."""\n', encoding="utf-8")
    stamp.write_text("\n".join(list_versions(home)) + "\n", encoding="utf-8")
    return own


def list_versions(home: Path) -> list[str]:
    """Return name==version of everything in an environment that says how fast it trains."""
    wanted = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "ms_swift", "llamafactory", "unsloth"}
    found = {(_name(item), item.version) for item in _installed(home)}
    return sorted(f"{name}=={version}" for name, version in found if name in wanted)


def _list_needs(home: Path, packages: list[str], left_out: dict[str, str]) -> list[str]:
    """Return what the installed packages require, but for what is left out; markers are pip's business."""
    skipped = {name.replace("-", "_").lower() for name in left_out}
    names = {re.split(r"[=<>~!]", package)[0].replace("-", "_").lower() for package in packages}
    needs = []
    for item in _installed(home):
        if _name(item) not in names:
            continue
        for need in item.requires or ():
            name = re.split(r"[ ;=<>~!\[(]", need)[0].replace("-", "_").lower()
            if "extra ==" not in need and name not in skipped:
                needs.append(need)
    return sorted(set(needs))


def _installed(home: Path) -> list[Distribution]:
    return list(distributions(path=[str(path) for path in (home / "lib").glob("python*/site-packages")]))


def _name(item: Distribution) -> str:
    return str(item.metadata["Name"]).replace("-", "_").lower()


def _pip(python: Path, *words: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words], check=True)
