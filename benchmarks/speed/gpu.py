"""The suite that needs a GPU: SiT-XL/2's shape with random weights. `make bench-gpu`; without a GPU it says so and ends.

    gpu_images_over_eager   images a second in bf16, compiled, at the best batch, over a plain eager loop with the structure
                            of the official script in its precision (float32 weights, TF32 products)
    gpu_share_of_peak       operations a second of that run over the bf16 matrix peak measured just before
    gpu_measure_over_bare   own and nearest, of the model's states and of genuine ones, over bare sampling, 40 trajectories
                            of 50 steps, bank of 1,300 latents a class, searched behind the sampling's back as `measure` does

Wall time: the host waits for the device before and after. `run(..., tiny=True)` walks the same code on a small network
and any device, so that it is tested where no GPU is; its numbers mean nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, preset
from slowflow.flow.generate import final_states
from slowflow.flow.model import FlowModel
from slowflow.measuring.behind import behind
from slowflow.measuring.references import REFERENCES, Reference, Trajectories
from slowflow.measuring.trajectories import Source
from slowflow.records import Probe
from speed.timing import AT_LEAST, AT_MOST, Ratio

STEPS, TRAJECTORIES, BANK_OF_CLASS = 50, 40, 1300
BATCHES = (32, 64, 128, 256, 512)
ROUNDS = 5
TINY = SiTConfig(input_size=8, patch=2, channels=4, hidden=32, depth=2, heads=4, classes=4)


def device() -> torch.device | None:
    """The GPU, None where there is none."""
    return torch.device("cuda") if torch.cuda.is_available() else None


def _wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def _wall(work: Callable[[], object], where: torch.device) -> float:
    _wait(where)
    start = time.perf_counter()
    work()
    _wait(where)
    return time.perf_counter() - start


def network(config: SiTConfig, where: torch.device, dtype: torch.dtype) -> SiT:
    """Random weights of ordinary size everywhere, gates and head included, so that nothing is multiplied by zero."""
    torch.manual_seed(0)
    net = SiT(config)
    for name, parameter in net.named_parameters():
        if name != "pos_embed":
            torch.nn.init.normal_(parameter, std=0.02)
    return net.to(where, dtype).eval()


def operations(config: SiTConfig) -> float:
    """Multiplications and additions of one forward pass of one sample: 2 a weight and token, and attention's products."""
    tokens, hidden = (config.input_size // config.patch) ** 2, config.hidden
    block = 2 * tokens * 12 * hidden**2 + 4 * tokens**2 * hidden + 2 * 6 * hidden**2
    ends = 2 * tokens * config.patch**2 * hidden * (config.channels + config.out_channels)
    return float(config.depth * block + ends)


def matrix_peak(where: torch.device, dtype: torch.dtype, n: int) -> float:
    """Operations a second of a large matrix product, best of several."""
    a, b = (torch.randn(n, n, device=where, dtype=dtype) for _ in range(2))
    a @ b
    return 2.0 * n**3 / min(_wall(lambda: a @ b, where) for _ in range(10))


@torch.no_grad()
def _eager(config: SiTConfig, where: torch.device, batch: int, steps: int) -> float:
    """Images a second of the plain loop: float32, TF32 products, Euler in the network's own precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    net = network(config, where, torch.float32)
    cond = torch.zeros(batch, dtype=torch.int64, device=where)

    def loop() -> None:
        x = torch.randn(batch, config.channels, config.input_size, config.input_size, device=where)
        for t in torch.linspace(0.0, 1.0, steps + 1, device=where)[:-1]:
            x = x + net(x, t.expand(batch), cond)[:, : config.channels] / steps

    loop()
    found = batch / min(_wall(loop, where) for _ in range(ROUNDS))
    torch.backends.cuda.matmul.allow_tf32 = before
    return found


def _ours(model: FlowModel, where: torch.device, batch: int, steps: int) -> float:
    """Images a second of SlowFlow's sampling."""

    def work() -> None:
        final_states(model, np.arange(batch), steps=steps, batch_size=batch)

    work()
    return batch / min(_wall(work, where) for _ in range(ROUNDS))


def _best(rate: Callable[[int], float], batches: tuple[int, ...]) -> tuple[float, int]:
    """Highest rate and its batch; batches that do not fit are passed over."""
    found: list[tuple[float, int]] = []
    for batch in batches:
        try:
            found.append((rate(batch), batch))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return max(found)


def _measuring(model: FlowModel, where: torch.device, trajectories: int, rows: int, batch: int) -> list[float]:
    """Wall time of measuring over that of bare sampling, interleaved."""
    classes, draw = model.classes, torch.Generator().manual_seed(0)
    few = min(classes, trajectories)  # a class each, as sample ids have them
    count = few * rows + classes * 5
    labels = torch.cat([torch.arange(few).repeat(rows), torch.arange(classes).repeat(5)])
    data = ImageSet("latents", torch.randn(count, *model.shape, generator=draw), labels, classes, pixels=False)
    bank_set, held = data.split(0.2)
    bank, ids = Bank.of(bank_set, conditional=True), np.arange(trajectories)
    source = Source(model, held, bank_set, Probe(samples=trajectories, steps=STEPS))

    def look(made: Trajectories) -> None:
        for reference in map(REFERENCES.get, ("own", "nearest")):
            assert isinstance(reference, Reference)
            reference.assign(made, bank, "auto")

    def whole() -> None:
        with behind(where.type == "cuda", where) as later:
            for kind in ("genuine", "model"):
                for i in range(0, trajectories, batch):
                    later(partial(look, source.make(kind, ids[i : i + batch], STEPS)))

    def bare() -> None:
        final_states(model, ids, steps=STEPS, batch_size=batch)

    whole(), bare()
    return [_wall(whole, where) / _wall(bare, where) for _ in range(3)]


def run(where: torch.device, tiny: bool = False) -> list[Ratio]:
    """The suite on one device."""
    config = TINY if tiny else preset("XL")
    steps, batches = (2, (2, 4)) if tiny else (STEPS, BATCHES)
    peak = matrix_peak(where, torch.bfloat16, 64 if tiny else 8192)
    eager, _ = _best(lambda batch: _eager(config, where, batch, steps), batches)
    net = network(config, where, torch.bfloat16)
    model = flow_model(net, path="linear", prediction="velocity", name="SiT-XL/2")
    if not tiny:
        net.compile(mode="max-autotune-no-cudagraphs")
    ours, batch = _best(lambda size: _ours(model, where, size, steps), batches)
    share = ours * steps * operations(config) / peak
    measured = _measuring(model, where, 4 if tiny else TRAJECTORIES, 8 if tiny else BANK_OF_CLASS, batch)
    note = f"{ours:.2f} images/s at batch {batch}, eager {eager:.2f}; peak {peak / 1e12:.0f} TFLOP/s bf16"
    middle = statistics.median(measured)
    return [
        Ratio("gpu_images_over_eager", ours / eager, ours / eager, ours / eager, AT_LEAST, 2.5, None, note),
        Ratio("gpu_share_of_peak", share, share, share, AT_LEAST, 0.55, 1.0),
        Ratio("gpu_measure_over_bare", middle, min(measured), max(measured), AT_MOST, 1.03, 1.0),
    ]
