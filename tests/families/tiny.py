"""Tiny networks of the families with published layouts, with random weights or briefly trained."""

import torch

from slowflow.families import dit, rae, repa, sit
from slowflow.families.rae.backbone import DDT, LightningDiT, RAEConfig
from slowflow.families.repa.backbone import REPA, REPAConfig
from slowflow.families.sit.backbone import SiT, SiTConfig
from slowflow.remedies.plain import Plain
from slowflow.train.loop import TrainConfig, train

TRUNK = dict(input_size=4, patch=2, channels=2, hidden=16, depth=3, heads=2, classes=3)
DDT_CONFIG = RAEConfig(4, 1, 2, (16, 24), (2, 1), (2, 2), 3)
PLAIN_CONFIG = RAEConfig(4, 1, 2, (16,), (2,), (2,), 3)
NETS = {
    "sit": lambda: SiT(SiTConfig(**TRUNK)),
    "sit-sigma": lambda: SiT(SiTConfig(**TRUNK, learn_sigma=True)),
    "dit": lambda: SiT(SiTConfig(**TRUNK, learn_sigma=True)),
    "repa": lambda: REPA(REPAConfig(SiTConfig(**TRUNK), (12,), 20, 2)),
    "repa-two": lambda: REPA(REPAConfig(SiTConfig(**TRUNK), (12, 6), 20, 2)),
    "rae": lambda: DDT(DDT_CONFIG),
    "rae-plain": lambda: LightningDiT(PLAIN_CONFIG),
}
KINDS = tuple(NETS)


def family(kind):
    return kind.split("-")[0]


def fresh(kind, seed=0):
    """A network whose every parameter is drawn, positions apart."""
    net, draw = NETS[kind](), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name != "pos_embed":
                fan = parameter[0].numel() if parameter.ndim > 1 else 16
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / fan**0.5)
    return net.eval()


def model_of(kind, net=None, name="tiny"):
    """The network in canonical time."""
    net = fresh(kind) if net is None else net
    make = {"sit": sit, "dit": dit, "repa": repa, "rae": rae}[family(kind)].flow_model
    extra = {"path": "linear", "prediction": "velocity"} if family(kind) == "sit" else {}
    extra = {"path": "linear"} if family(kind) == "repa" else extra
    return make(net, name=name, **extra)


def trained(kind, data, folder, steps=150):
    """The network after a few steps on data that are easy."""
    net = fresh(kind)
    with torch.no_grad():
        net.final_layer.linear.weight.mul_(0.1)
    settings = TrainConfig(steps=steps, batch_size=32, lr=3e-3, lr_final=3e-3, warmup=0, valid_every=0, ema_decay=0.0)
    train(model_of(kind, net), data, Plain(), settings, folder / f"{kind}-state.safetensors")
    return net
