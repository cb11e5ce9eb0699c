"""Write the adapter with which `actune sft` starts: python first_adapter.py MODEL OUT RANK ALPHA SEED TARGETS."""

import sys
from pathlib import Path

import torch

from actune.modeling.adapters import attach_adapter, save_adapter
from actune.modeling.load import load_model
from actune.modeling.targets import resolve_targets

model_dir, out, rank, alpha, seed, names = sys.argv[1:]
model = load_model(Path(model_dir), dtype=torch.float32, device=torch.device("cpu"), trust_remote_code=False)
targets = resolve_targets(model, tuple(names.split(",")))
adapter = attach_adapter(model, modules=targets.names, rank=int(rank), alpha=float(alpha), dropout=0.0, seed=int(seed))
save_adapter(adapter, Path(out))
