"""Unsloth as its documentation starts it: FastLanguageModel, SFTTrainer, train_on_responses_only.

    python unsloth_sft.py SETTINGS.json

Its command line (`unsloth train`) needs the packages of its Studio; this is the same library below it.
"""

import json
import sys
from pathlib import Path

# isort: off
from unsloth import FastLanguageModel, train_on_responses_only  # first: it changes transformers and trl

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
# isort: on


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    recompute = given["gradient_checkpointing"]
    model, tokenizer = FastLanguageModel.from_pretrained(
        given["model"],
        max_seq_length=given["max_length"],
        load_in_4bit=False,
        dtype=getattr(torch, given["dtype"]) if given["dtype"] else None,
        use_gradient_checkpointing=recompute,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=given["rank"],
        lora_alpha=given["alpha"],
        lora_dropout=0.0,
        target_modules=given["targets"],
        use_gradient_checkpointing=recompute,
        random_state=given["seed"],
    )
    rows = load_dataset("json", data_files=given["data"], split="train")
    rows = rows.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=rows.select_columns(["text"]),
        args=SFTConfig(
            dataset_text_field="text",
            max_length=given["max_length"],
            output_dir=given["out"],
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            **given["trainer"],
        ),
    )
    trainer = train_on_responses_only(
        trainer, instruction_part="<|im_start|>user\n", response_part="<|im_start|>assistant\n"
    )
    trainer.train()


if __name__ == "__main__":
    main()
