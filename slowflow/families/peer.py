"""Networks of diffusers as SlowFlow calls them, whatever folder or file they come from.

MODEL is one of three things:

    a folder in the layout of diffusers
    a .toml that names such a folder and settles what a folder cannot say (prompts, size, LoRA, ...)
    a .safetensors that SlowFlow wrote after post-training; it holds the configs and the conditions, nothing else is needed

Whatever a network is told beside state and time (prompt embeddings, masks, class labels) is a table with one row a
class and, last, the row of the null condition. So labels, guidance and label dropout (here: prompt dropout) work as for
a class-conditional network, and text encoders are needed once or, with cached embeddings, never.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from slowflow.config import from_mapping, read_toml
from slowflow.errors import CheckpointError, InputError
from slowflow.families.lora import add_lora, merge
from slowflow.families.metadata import told
from slowflow.families.peer_calls import Call, plain
from slowflow.io import checkpoint, pretrained
from slowflow.io.run import file_sha256

ROWS = "rows"


@dataclass(frozen=True)
class PeerSettings:
    """What a .toml may say of every family of diffusers.

    Args:
        folder: in the layout of diffusers, relative to the .toml.
        size: side of a state in cells; the network's own when None.
        lora: rank of a low-rank adapter that is trained in place of the weights; 0 = train the weights.
        checkpointing: recompute activations in the backward pass: less memory, about a third more time.
    """

    folder: str
    size: int | None = None
    lora: int = 0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise InputError(f"size is {self.size}, expected at least 1")
        if self.lora < 0:
            raise InputError(f"lora is {self.lora}, expected a rank of at least 0")


S = TypeVar("S", bound=PeerSettings)


class _Rows(nn.Module):
    """Tensors with one row a condition."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = sorted(tensors)
        for name in self.names:
            self.register_buffer(name, tensors[name].contiguous())

    def __len__(self) -> int:
        """Conditions, the null condition included; 0 when the network is told nothing."""
        return len(self.get_buffer(self.names[0])) if self.names else 0

    def of(self, cond: Tensor) -> dict[str, Tensor]:
        """The rows of each sample's condition, by the name under which the network takes them."""
        return {name: self.get_buffer(name)[cond] for name in self.names}


class PeerNet(nn.Module):
    """`net(state, label, cond)` around a network of diffusers.

    Args:
        net: its forward takes the state, `timestep`, and by name what `rows` holds.
        rows: conditions, the null condition last; names are those of the network's arguments.
        call: how the network takes them.
        memory: configs, which SlowFlow's own files record.
    """

    net: Any

    def __init__(
        self,
        net: nn.Module,
        rows: Mapping[str, Tensor] | None = None,
        call: Call = plain,
        memory: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        taken = inspect.signature(net.forward).parameters
        unknown = sorted(set(rows or {}) - set(taken))
        if unknown:
            raise InputError(f"a {type(net).__name__} takes no '{unknown[0]}' (it takes {', '.join(taken)})")
        self.net, self.call, self.memory = net, call, memory or {}
        self.rows = _Rows(rows or {})

    def forward(self, state: Tensor, label: Tensor, cond: Tensor) -> Any:
        """What the network returns, a tensor or a tuple that starts with one."""
        return self.call(self.net, state, label, cond, self.rows.of(cond))


@dataclass(frozen=True)
class Peer(Generic[S]):
    """A network with its configs, however MODEL named it.

    Args:
        net: filled, with its conditions.
        network, scheduler: configs of the network and of its scheduler.
        settings: of the .toml.
        path, sha256, part, name: of where it came from.
        notes: things a person should know.
    """

    net: PeerNet
    network: dict[str, Any]
    scheduler: dict[str, Any]
    settings: S
    path: str
    sha256: str
    part: str
    name: str
    notes: list[str] = field(default_factory=list)


Rows = Callable[[Path, S, Any], Mapping[str, Tensor]]
"""`rows(place, settings, net)`: the conditions of a folder's network; paths in settings are relative to `place`."""


def open_peer(
    path: Path | None,
    family: str,
    kind: type[S],
    parts: tuple[str, ...],
    rows: Rows[S],
    prepare: Callable[[Any, S], Call],
) -> Peer[S]:
    """Open whatever MODEL names for one of the families of diffusers.

    Args:
        path: folder, .toml or .safetensors.
        family: who asks.
        kind: its settings.
        parts: subfolders the network may be in.
        rows: where conditions come from.
        prepare: called with (network, settings) before it is used; says how it is called.

    Raises:
        CheckpointError: nothing there, damaged, incomplete, or another family's.
        MissingExtraError: diffusers is not installed.
    """
    if path is None:
        raise CheckpointError(f"the family '{family}' opens a folder, a .toml or a .safetensors; give its path")
    if path.is_file() and path.suffix != ".toml":
        return _from_file(path, family, kind, prepare)
    place = path.parent if path.suffix == ".toml" else path
    settings = from_mapping(kind, read_toml(path), str(path)) if path.suffix == ".toml" else kind(folder=".")
    folder = (place / settings.folder).resolve()
    part = pretrained.find_part(folder, parts)
    net, network = pretrained.load_module(part, f"the family '{family}'")
    _, scheduler = pretrained.load_scheduler(folder if part != folder else folder.parent, f"the family '{family}'")
    call = prepare(net, settings)
    found = rows(place, settings, net)
    sha256 = pretrained.fingerprint(part)
    _make_trainable(net, settings)
    network = {key: value for key, value in network.items() if key != "_name_or_path"}
    wrapped = PeerNet(net, found, call, _memory(network, scheduler, settings))
    return Peer(wrapped.eval(), network, scheduler, settings, str(path), sha256, "flat", _named(path))


def _memory(network: dict[str, Any], scheduler: dict[str, Any], settings: PeerSettings) -> dict[str, Any]:
    """What a file of SlowFlow's says, so that it can be opened with nothing but itself; files may move, so no path is kept."""
    plain = asdict(settings)
    names = {key: Path(plain[key]).name for key in ("prompts", "conditions") if plain.get(key)}
    return {"network": network, "scheduler": scheduler, "settings": {**plain, **names, "folder": "."}}


def _named(path: Path) -> str:
    """The name of a folder, or of a .toml without its ending."""
    return path.stem if path.suffix == ".toml" else path.resolve().name


def _from_file(path: Path, family: str, kind: type[S], prepare: Callable[[Any, S], Call]) -> Peer[S]:
    """A file that SlowFlow wrote."""
    stored = checkpoint.load(path)
    facts = told(stored.metadata, path, family)
    if not all(isinstance(facts.get(key), dict) for key in ("network", "scheduler", "settings")):
        raise CheckpointError(
            f"{path} was not written by the family '{family}'; give a folder in the layout of diffusers, or a .toml that names one"
        )
    network, scheduler = facts["network"], facts["scheduler"]
    settings = from_mapping(kind, facts["settings"], f"the metadata of {path}")
    with pretrained.without_weights():
        net = pretrained.build(network, f"the family '{family}'", path).eval()
    call = prepare(net, settings)
    _make_trainable(net, settings)
    prefix = f"{ROWS}."
    found = {name.removeprefix(prefix): value for name, value in stored.tensors.items() if name.startswith(prefix)}
    wrapped = PeerNet(net, found, call, _memory(network, scheduler, settings))
    pretrained.fill(wrapped, stored.tensors, path)
    name = str(facts.get("name", path.stem))
    return Peer(wrapped.eval(), network, scheduler, settings, str(path), file_sha256(path), stored.part, name)


def _make_trainable(net: Any, settings: PeerSettings) -> None:
    if settings.lora:
        add_lora(net, settings.lora)
    if settings.checkpointing:
        net.enable_gradient_checkpointing()


def official(net: PeerNet) -> dict[str, Tensor]:
    """The network's own state dict, in diffusers' names, LoRA merged; conditions are left out."""
    return merge(dict(net.net.state_dict()))


def side(net: Any, settings: PeerSettings) -> int:
    """Side of a state: the settings', else the network's own.

    Raises:
        CheckpointError: neither says.
    """
    found = settings.size or net.config.get("sample_size")
    if isinstance(found, list | tuple) and len(set(found)) == 1:
        found = found[0]
    if not isinstance(found, int):
        raise CheckpointError(
            f"the network's config says no single side of a state ({found!r}); put size = N into a .toml"
        )
    return found


def folder_names(path: Path) -> set[str]:
    """What a folder of diffusers, or of a .toml, is made of, as names `class:...` and `scheduler:...` for `Family.fits`."""
    if path.suffix == ".toml":
        path = path.parent / str(read_toml(path).get("folder", ""))
    names: set[str] = set()
    for place, file in (
        ("transformer", "config.json"),
        ("unet", "config.json"),
        ("scheduler", "scheduler_config.json"),
    ):
        try:
            kind = pretrained.read_config(path / place, file)["_class_name"]
        except CheckpointError:
            continue
        names.add(f"scheduler:{kind}" if place == "scheduler" else f"class:{kind}")
    return names
