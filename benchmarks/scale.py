"""What docs/scale.md reckons with: operations and memory of large networks, counted on tensors without content, and the
CPU time of the instrument at the size of a Stable Diffusion latent, measured on one core.

    python benchmarks/scale.py              # prints JSON; about three minutes on one core
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig
from slowflow.flow.cost import peak
from slowflow.flow.model import FlowModel
from slowflow.measuring.references import REFERENCES, Reference
from slowflow.measuring.trajectories import Source
from slowflow.records import Probe

XL = SiTConfig(32, 2, 4, hidden=1152, depth=28, heads=16, classes=1000, learn_sigma=True)
LARGE = {"sample_size": 128, "num_layers": 38, "num_attention_heads": 38, "attention_head_dim": 64}
LARGE |= {"in_channels": 16, "out_channels": 16, "joint_attention_dim": 4096, "caption_projection_dim": 2432}
LARGE |= {"pooled_projection_dim": 2048, "pos_embed_max_size": 192, "qk_norm": "rms_norm"}
TEXT = 333
"""Tokens of text beside the image's: 77 of CLIP and 256 of T5."""
GIB = 2**30
CLASSES, ROWS, HELD = 16, 1025, 256
"""Of ImageNet's 1,000 classes these many stand for all; a class has 1,281 images, a fifth of them held out."""


def sit_xl() -> dict[str, float]:
    """SiT-XL/2: parameters, operations of a call, bytes of a step."""
    with torch.device("meta"):
        net = SiT(XL).to("meta")
        model = flow_model(net, path="linear", prediction="velocity", name="SiT-XL/2")
        state, t, cond = torch.zeros(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as count, torch.no_grad():
        net(state, t, cond)
    return {**_facts(net, count.get_total_flops()), **_activations(model, (1, 8))}


def _activations(model: FlowModel, rows: tuple[int, ...]) -> dict[str, float]:
    return {f"activations_of_{n}_GiB": round((peak(model, n, train=True) or 0) / GIB, 2) for n in rows}


def _facts(net: nn.Module, flops: int) -> dict[str, float]:
    parameters = sum(p.numel() for p in net.parameters())
    return {"parameters": parameters, "flops_a_call": flops, "float32_GiB": round(4 * parameters / GIB, 2)}


def sd35_large() -> dict[str, float]:
    """SD3.5-large at 1024 pixels."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        net = SD3Transformer2DModel(**LARGE).to("meta")
        inputs = {
            "hidden_states": torch.zeros(1, 16, 128, 128),
            "timestep": torch.zeros(1),
            "encoder_hidden_states": torch.zeros(1, TEXT, 4096),
            "pooled_projections": torch.zeros(1, 2048),
        }
    with FlopCounterMode(display=False) as count, torch.no_grad():
        net(**inputs)
    return _facts(net, count.get_total_flops())


def instrument() -> dict[str, float]:
    """Core-seconds a sample at 4 x 32 x 32, 50 steps: noise, a perfect model, and each reference."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -1, 4096).view(4, 32, 32)

    def latents(rows: int, name: str) -> ImageSet:
        labels = torch.arange(rows * CLASSES) % CLASSES
        data = torch.randn((rows * CLASSES, 4, 32, 32), generator=draw) * spread
        return ImageSet(name, data, labels, CLASSES, pixels=False)

    bank_set, held = latents(ROWS, "bank"), latents(HELD, "held")
    model = FlowModel.from_callable(lambda x, t, c: -x, shape=(4, 32, 32), classes=CLASSES)
    source = Source(model, held, bank_set, Probe(samples=CLASSES, steps=50))
    ids = np.arange(CLASSES)
    found = {
        f"{kind} trajectories": _core(lambda kind=kind: source.make(kind, ids, 50))
        for kind in ("model", "genuine", "exact", "coarse")
    }
    batch, bank = source.make("genuine", ids, 50), Bank.of(bank_set, conditional=True)
    start = time.process_time()
    assert len(bank.spectrum.axes) == 4096
    found["principal axes, once a run"] = time.process_time() - start
    assert bank.within.means
    for name in ("own", "nearest", "level", "clocks"):
        reference = REFERENCES.get(name)
        look: Callable[[], object]
        if isinstance(reference, Reference):
            look = lambda reference=reference: reference.assign(batch, bank, "torch")  # noqa: E731
        else:
            look = lambda reference=reference: reference.observe(batch, bank)  # noqa: E731
        found[name] = _core(look)
    return {name: round(value, 4) for name, value in found.items()}


def _core(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / CLASSES


if __name__ == "__main__":
    print(json.dumps({"SiT-XL/2": sit_xl(), "SD3.5-large": sd35_large(), "instrument": instrument()}, indent=2))
