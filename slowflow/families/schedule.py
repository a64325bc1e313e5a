"""Sampling times that a scheduler of diffusers prescribes, in canonical time.

    flow matching: t = 1 - sigma         DDPM tables: t = 1 - (k + 1) / K, then the clean state

Times are read from the scheduler itself and never computed again: FlowMatchEulerDiscreteScheduler shifts its grid twice
(once when it is made, once when steps are set), so that 28 steps with shift 3 end at sigma = 0.008929 and not 0.002994.
With dynamic shifting the shift is exp(mu), and mu is linear in the number of tokens.
Source: diffusers issue 13243; Esser et al. 2024 (arXiv 2403.03206) for the shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import CheckpointError
from slowflow.flow.table import Table
from slowflow.io import pretrained

Times = Callable[[int], Float[Tensor, " times"]]
FLOW = "FlowMatch"
"""How the names of diffusers' flow-matching schedulers begin."""
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}


def _rising(times: Tensor, config: dict[str, Any], steps: int) -> Tensor:
    if not bool((times.diff() > 0).all()) or not 0.0 <= float(times[0]) < float(times[-1]) <= 1.0:
        raise CheckpointError(f"a {config['_class_name']} gives no rising times for {steps} steps")
    return times


@dataclass(frozen=True)
class Noisewards:
    """What a flow-matching network is told: factor (1 - t), or factor t where its time points to data."""

    factor: float
    towards_data: bool = False

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The label of canonical time t."""
        return self.factor * (t if self.towards_data else 1.0 - t)


@dataclass(frozen=True)
class FlowTimes:
    """Times of a flow-matching scheduler.

    Args:
        config: of the scheduler.
        tokens: of one state, for dynamic shifting.
        from_one: start from sigmas 1 ... 1/steps, as Flux does; otherwise from the scheduler's own table (SD3).
    """

    config: dict[str, Any]
    tokens: int
    from_one: bool = False

    @property
    def mu(self) -> float | None:
        """Logarithm of the dynamic shift, None where the shift is fixed."""
        if not self.config.get("use_dynamic_shifting"):
            return None
        low, high = self.config.get("base_image_seq_len", 256), self.config.get("max_image_seq_len", 4096)
        base, top = self.config.get("base_shift", 0.5), self.config.get("max_shift", 1.15)
        return float(base + (top - base) * (self.tokens - low) / (high - low))

    @property
    def shift(self) -> float:
        """s of the warp."""
        return float(self.config.get("shift", 1.0)) if self.mu is None else math.exp(self.mu)

    def __call__(self, steps: int) -> Float[Tensor, " times"]:
        """steps + 1 times, noise to data."""
        scheduler = pretrained.build(self.config, "the times of a flow-matching scheduler")
        told: dict[str, Any] = {} if self.mu is None else {"mu": self.mu}
        if self.from_one:
            told["sigmas"] = np.linspace(1.0, 1.0 / steps, steps)
        scheduler.set_timesteps(steps, **told)
        # a Heun scheduler lists every inner sigma twice, once for each evaluation
        sigmas = torch.unique_consecutive(scheduler.sigmas.to("cpu", torch.float64))
        return _rising(1.0 - sigmas, self.config, steps)


@dataclass(frozen=True)
class TableTimes:
    """Times that DDIM takes from a DDPM scheduler's config; from the last level to the clean state, or to that level.

    Args:
        config: of the scheduler; its spacing and offset are obeyed whatever its class.
        table: its noise levels.
    """

    config: dict[str, Any]
    table: Table

    @property
    def end(self) -> float:
        """1, or the time of level 0 where the config says that sampling ends there."""
        return 1.0 if self.config.get("set_alpha_to_one", True) else 1.0 - 1.0 / self.table.levels

    def __call__(self, steps: int) -> Float[Tensor, " times"]:
        """steps + 1 times, noise to data."""
        told = ("num_train_timesteps", "timestep_spacing", "steps_offset")
        kept: dict[str, Any] = {key: self.config[key] for key in told if key in self.config}
        scheduler = pretrained.build({**kept, "_class_name": "DDIMScheduler"}, "the times of a DDPM scheduler")
        try:
            scheduler.set_timesteps(steps)
        except ValueError as error:
            raise CheckpointError(f"the scheduler refuses {steps} steps: {error}") from error
        return _rising(self.table.grid(scheduler.timesteps.tolist(), self.end), self.config, steps)


def table_of(config: dict[str, Any]) -> Table:
    """Noise levels of a DDPM-like scheduler.

    Raises:
        CheckpointError: the scheduler has none (flow matching has not).
    """
    scheduler = pretrained.build(config, "a table of noise levels")
    levels = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(levels, Tensor) or str(config["_class_name"]).startswith(FLOW):
        raise CheckpointError(
            f"a {config['_class_name']} has no table of noise levels; flow-matching models open with --family flowmatch or sd3"
        )
    return Table(levels)
