"""TRL's SFTTrainer on token ids and labels that actune made, from an adapter that actune made.

    python trl_ids.py SETTINGS.json

So the work is identical and the losses can be compared step by step.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    model = PeftModel.from_pretrained(model, given["adapter"], is_trainable=True)
    trainer = SFTTrainer(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(given["model"]),
        train_dataset=load_dataset("json", data_files=given["data"], split="train"),
        args=SFTConfig(
            max_length=given["max_length"],
            output_dir=given["out"],
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            train_sampling_strategy="sequential",  # the file is in the order in which actune trains
            **given["trainer"],
        ),
    )
    trainer.train()


if __name__ == "__main__":
    main()
