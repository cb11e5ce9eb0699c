"""What scripts rely on: help and version at once, exit codes, the reference's own flags, the page of settings."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actune import __version__
from actune.cli.settings_help import WIDTH, write_help
from actune.config.fields import list_leaves
from actune.config.load import load_settings, settings_notices

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / ".." / "shared"
COMMANDS = ("sft", "tokens", "inspect", "check", "convert", "run", "chat", "serve", "eval", "compare", "export")
HEAVY = ("torch", "transformers", "peft", "datasets", "pandas", "numpy", "tokenizers", "huggingface_hub")

# The command of the reference recipe, word by word, for 8 processes.
REFERENCE_COMMAND = """
--model_id_or_path qwen/Qwen-7B-Chat --model_revision master --sft_type lora --tuner_backend swift --dtype AUTO
--output_dir output --dataset ms-agent --train_dataset_mix_ratio 2.0 --train_dataset_sample -1 --num_train_epochs 2
--max_length 2048 --check_dataset_strategy warning --lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.05
--lora_target_modules ALL --self_cognition_sample 3000 --model_name 卡卡罗特 --model_author 陶白白
--gradient_checkpointing true --batch_size 2 --weight_decay 0.01 --learning_rate 5e-5 --gradient_accumulation_steps 4
--max_grad_norm 0.5 --warmup_ratio 0.03 --eval_steps 100 --save_steps 100 --save_total_limit 2 --logging_steps 10
"""


def run_python(code: str, *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", **(env or {})}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    result = run_python(
        "import sys\nfrom actune.cli.main import main\n"
        f"code = main({words!r})\n"
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    assert result.stderr.strip() == "0 []"
    assert result.stdout.strip()


def test_help_pages_are_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_help_pages.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run scripts/make_help_pages.py: {done.stdout}{done.stderr[-500:]}"


def test_root_help_names_every_command_without_loading_settings() -> None:
    result = run_python(
        "import sys\nfrom actune.cli.main import main\nmain(['--help'])\n"
        "print('pydantic' in sys.modules, 'actune.cli.commands' in sys.modules, file=sys.stderr)"
    )
    assert result.stderr.strip() == "False False"
    for name in COMMANDS:
        assert re.search(rf"^\s+{name}: ", result.stdout, re.MULTILINE)


def test_version_and_module_entry() -> None:
    result = subprocess.run([sys.executable, "-m", "actune", "--version"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout.strip()) == (0, __version__)
    result = subprocess.run([sys.executable, "-m", "actune", "nothing"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")


def test_sft_help_prints_every_setting() -> None:
    text = write_help()
    assert max(map(len, text.splitlines())) <= WIDTH
    flat = " ".join(text.split())
    for leaf in list_leaves():
        assert f"--{leaf.name}" in text
        assert leaf.type_text in flat
        assert leaf.description in flat


def test_the_page_of_settings_is_current() -> None:
    module = runpy.run_path(str(ROOT / "scripts" / "make_settings_docs.py"))
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == module["write_page"](), "run: python scripts/make_settings_docs.py"


def test_the_flags_of_the_reference_are_accepted_unchanged() -> None:
    settings = load_settings(None, REFERENCE_COMMAND.split())
    assert settings.model.model_id_or_path == "qwen/Qwen-7B-Chat"
    assert settings.model.model_revision == "master"
    assert settings.data.dataset == ("ms-agent",)
    assert settings.data.train_dataset_sample == -1
    assert settings.data.self_cognition_sample == 3000
    assert settings.data.model_name == ("卡卡罗特",)
    assert settings.data.model_author == ("陶白白",)
    assert settings.tuning.lora_target_modules == ("ALL",)
    assert settings.training.gradient_checkpointing == "true"
    assert settings.training.learning_rate == 5e-5
    assert len(settings_notices(settings)) == 1
    assert "swift" in settings_notices(settings)[0]


@pytest.mark.shared
def test_the_list_of_flags_is_the_one_in_the_reference() -> None:
    page = SHARED / "design" / "REFERENCE.zh.md"
    if not page.is_file():
        pytest.skip("the reference's text is not here")
    command = page.read_text(encoding="utf-8").partition("llm_sft.py")[2].partition("```")[0]
    command = command.replace("$(expr 32 / $nproc_per_node)", "4").replace("\\\n", " ")
    assert command.split() == REFERENCE_COMMAND.split()


def test_interrupting_a_command_gives_one_line_and_130() -> None:
    code = (
        # A test run in the background may have been started with interrupts ignored, which children inherit.
        "import signal, sys, time, types\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "module = types.ModuleType('actune.recipes')\n"
        "def check(**arguments):\n    print('started', flush=True)\n    time.sleep(60)\n"
        "module.check = check\n"
        "sys.modules['actune.recipes'] = module\n"
        "import actune\nactune.recipes = module\n"
        "from actune.cli.main import main\n"
        "sys.exit(main(['check', 'a']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "started\n"
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert (run.returncode, errors) == (130, "interrupted\n")


def test_a_closed_pipe_is_quiet() -> None:
    command = f'{sys.executable} -c \'from actune.cli.main import main; raise SystemExit(main(["sft", "--help"]))\''
    # The reader is gone before anything is written.
    script = f"{{ sleep 0.3; {command}; echo $? >&2; }} | true"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stderr.strip() == "141"
