"""Settings of a training run: what enters its configuration. How it is computed is in execution.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slowflow.errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    Args:
        steps: optimiser steps, at least 1.
        batch_size: images a step.
        lr: peak learning rate, reached after `warmup` steps.
        lr_final: learning rate at the last step; cosine between. Equal to `lr` it is constant.
        warmup: steps of linear warm-up.
        weight_decay, betas: AdamW's.
        ema_decay: of the moving average.
        clip: largest gradient norm.
        label_dropout: share of labels replaced by the null class.
        seed: of every draw.
        save_every: steps between saved states.
        valid_every: steps between held-out losses; 0 = never.
        micro_batch: images that go through the network at once; the gradient is that of the whole batch. 0 = all.
        mixed: compute in bfloat16 where that is safe (autocast); weights, averages and the loss stay as they are.
        ema_ramp: the average forgets faster at first, so that its mean age is at most 1 / (ramp + 1) of the steps so far;
            None = ema_decay from the first step.
    """

    steps: int
    batch_size: int = 64
    lr: float = 2e-4
    lr_final: float = 2e-4
    warmup: int = 100
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    ema_decay: float = 0.999
    clip: float = 1.0
    label_dropout: float = 0.1
    seed: int = 0
    save_every: int = 250
    valid_every: int = 500
    micro_batch: int = 0
    mixed: bool = False
    ema_ramp: float | None = None

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "warmup": 0, "save_every": 1, "valid_every": 0, "micro_batch": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {low}")
        if len(self.betas) != 2 or any(not 0.0 <= b < 1.0 for b in self.betas):
            raise InputError(f"betas is {self.betas}, expected two numbers in [0, 1)")
        if not 0.0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}, expected a number of at least 0")
        for name in ("ema_decay", "label_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a share in [0, 1)")
        if self.ema_ramp is not None and not 0.0 < self.ema_ramp < math.inf:
            raise InputError(f"ema_ramp is {self.ema_ramp}, expected a finite number above 0")
        for name in ("lr", "lr_final", "clip"):
            if not getattr(self, name) > 0.0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a number above 0")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine from lr to lr_final over the remaining steps."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr_final + 0.5 * (self.lr - self.lr_final) * (1.0 + math.cos(math.pi * share))
