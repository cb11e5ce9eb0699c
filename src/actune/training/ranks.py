"""The processes of a data-parallel run: who is who, and the few things they tell each other."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from actune.core.errors import ConfigError, TrainingError
from actune.core.types import Source
from actune.modeling.load import pick_device
from actune.render.tree import TokenTree

# The others wait while the leader downloads and encodes all rows, which can take longer than torch's ten minutes.
# A process that dies is noticed by torchrun, not by this.
_PATIENCE = timedelta(hours=12)
# Numbers of one flat all-reduce: large enough for full speed, small beside the weights.
_BUCKET = 2**26
_FIELDS = ("input_ids", "positions", "end", "target_positions", "target_ids", "target_weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among all: `rank` of `size`, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def start(cls, device: torch.device | None = None) -> Ranks:
        """Read torchrun's environment and join the other processes, if there are any.

        The backend is gloo on the CPU, else the one torch has for the accelerator.

        Raises:
            ConfigError: the environment is not the one that torchrun sets.
        """
        try:
            rank, size, local = (
                int(os.environ.get(name, default))
                for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
            )
        except ValueError as error:
            raise ConfigError(
                f"RANK, WORLD_SIZE or LOCAL_RANK is no number: {error}", fix="start with torchrun, or unset them"
            ) from None
        device = device or pick_device(local)
        if device.type != "cpu":
            torch.accelerator.set_device_index(device.index or 0)
        if size > 1:
            backend = dist.get_default_backend_for_device(device)
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE)
        return cls(rank=rank, size=size, device=device)

    @property
    def leads(self) -> bool:
        """Whether this process reads data and writes files for all."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the group; no collective may follow."""
        if self.size > 1 and dist.is_initialized():
            # A sharded model refers to the group in cycles. What is left of it must go before the group does, or the
            # group's threads live until the interpreter ends, which then may abort (seen once in nine runs).
            gc.collect()
            dist.destroy_process_group()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of each value over all processes (fp64 where the device has it)."""
        if self.size == 1:
            return list(values)
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        flat = torch.tensor(values, dtype=kind, device=self.device)
        dist.all_reduce(flat)
        return flat.tolist()

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all processes, in flat buckets; a missing gradient counts, and becomes, zero.

        Those of weights that are spread over processes were summed when they were formed.
        """
        bucket: list[Tensor] = []
        count = 0
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if isinstance(parameter, DTensor):
                continue
            bucket.append(parameter.grad)
            count += parameter.grad.numel()
            if count >= _BUCKET:
                self._reduce(bucket)
                bucket, count = [], 0
        self._reduce(bucket)

    def _reduce(self, gradients: Sequence[Tensor]) -> None:
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share_parameters(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the leader's values."""
        if self.size > 1:
            for parameter in parameters:
                if not isinstance(parameter, DTensor):  # spread ones were read from the same files
                    dist.broadcast(parameter.data, src=0)

    def broadcast_text(self, text: str) -> str:
        """Give every process the leader's text."""
        if self.size == 1:
            return text
        return self._broadcast(np.frombuffer(text.encode(), dtype=np.uint8)).tobytes().decode()

    def broadcast_trees(self, trees: Sequence[TokenTree] | None) -> Sequence[TokenTree]:
        """Give every process the leader's trees; the others' argument is not looked at. Plain numbers, no pickle."""
        if self.size == 1:
            return trees if trees is not None else ()
        held = list(trees or ()) if self.leads else []
        names = self.broadcast_text(json.dumps([asdict(tree.source) for tree in held], ensure_ascii=False))
        sources = [Source(**fields) for fields in json.loads(names)]
        columns = []
        for name in _FIELDS:
            parts = [getattr(tree, name) for tree in held]
            lengths = self._broadcast(np.array([len(part) for part in parts], dtype=np.int64))
            kind = np.float32 if name == "target_weights" else np.int32
            flat = self._broadcast(np.concatenate([np.zeros(0, kind), *parts]).astype(kind))
            columns.append(np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else [])
        return [
            TokenTree(**dict(zip(_FIELDS, row, strict=True)), source=source)
            for source, *row in zip(sources, *columns, strict=True)
        ]

    def _broadcast(self, array: np.ndarray) -> np.ndarray:
        length = torch.tensor([len(array)], device=self.device)
        dist.broadcast(length, src=0)
        if self.leads:
            flat = torch.from_numpy(array.copy()).to(self.device)
        else:
            kind = torch.from_numpy(np.zeros(0, array.dtype)).dtype
            flat = torch.empty(int(length.item()), dtype=kind, device=self.device)
        dist.broadcast(flat, src=0)
        return flat.cpu().numpy()

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Run a block that all processes run (or skip inside): an error in one ends all, instead of a wait for ever.

        Raises:
            TrainingError: the block failed in another process; that one raises its own error.
        """
        try:
            yield
        except BaseException:
            self.sum([1.0])
            raise
        if self.sum([0.0])[0] > 0:
            raise TrainingError(f"{what} failed in another process; its message says why")
