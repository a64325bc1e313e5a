"""Files made to attack whoever opens them: refused with one sentence, at once, and nothing in them runs (R3).

Every payload would make a canary file if any part of it ran. An audit hook listens too: to processes, sockets, files that
are written, and modules imported by name.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.data.open import open_data
from slowflow.errors import CheckpointError, DataError, SlowFlowError
from slowflow.io import checkpoint, pretrained

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")
_heard: list[str] = []
_listening = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listening:
        return
    written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event in FORBIDDEN or written or (event == "import" and arguments[0] in ("webbrowser", "antigravity", "this")):
        _heard.append(f"{event} {arguments}")


sys.addaudithook(_hook)


@pytest.fixture
def nothing_runs(tmp_path: Path):
    """The path of the canary; afterwards it must not exist, and nothing forbidden was heard."""
    global _listening
    canary = tmp_path / "canary"
    yield canary
    _listening = False
    assert not canary.exists()
    assert _heard == []


@pytest.fixture(autouse=True)
def fresh_hook():
    _heard.clear()
    yield
    _heard.clear()


class Calls:
    """Unpickles into function(*arguments)."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Wakes:
    """Does harm when its state is restored."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["canary"]).touch()


class Subclassed(torch.Tensor):
    """A tensor that brings code of its own."""

    def __setstate__(self, state: Any) -> None:
        Path("canary").touch()


def weights() -> dict[str, torch.Tensor]:
    return {"x_embedder.proj.weight": torch.zeros(4, 1, 2, 2)}


def saved(content: Any, path: Path, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def touch(canary: Path) -> str:
    return f"touch {canary}"


def reduce_to_system(d: Path, canary: Path) -> Path:
    return saved(Calls(os.system, touch(canary)), d / "a.pt")


def nested_in_a_mapping(d: Path, canary: Path) -> Path:
    inner = collections.OrderedDict(a=[{"b": (Calls(os.system, touch(canary)),)}])
    return saved({"model": weights(), "opt": inner}, d / "a.pt")


def builtins_eval(d: Path, canary: Path) -> Path:
    return saved({"model": Calls(eval, f"open({str(canary)!r}, 'w')")}, d / "a.pt")


def builtins_exec_in_legacy_pickle(d: Path, canary: Path) -> Path:
    return saved(
        {"model": Calls(exec, f"open({str(canary)!r}, 'w')")}, d / "a.pt", _use_new_zipfile_serialization=False
    )


def torch_hub(d: Path, canary: Path) -> Path:
    return saved({"model": Calls(torch.hub.load, str(d), "model")}, d / "a.pt")


def subprocess_in_a_bare_pickle(d: Path, canary: Path) -> Path:
    (d / "a.pkl").write_bytes(pickle.dumps(Calls(subprocess.check_output, ["touch", str(canary)]), protocol=2))
    return d / "a.pkl"


def set_state(d: Path, canary: Path) -> Path:
    return saved({"model": weights(), "extra": Wakes(str(canary))}, d / "a.pt")


def tensor_subclass(d: Path, canary: Path) -> Path:
    return saved({"x": torch.zeros(2).as_subclass(Subclassed)}, d / "a.pt")


def namespace_with_a_call_inside(d: Path, canary: Path) -> Path:
    args = argparse.Namespace(lr=0.1, hook=Calls(os.system, touch(canary)))
    return saved({"ema": weights(), "args": args}, d / "a.pt")


def edm_style_source(d: Path, canary: Path) -> Path:
    """A pickle that brings the source of its class and has it run, as EDM's networks do."""
    source = f"open({str(canary)!r}, 'w')"
    found = {"ema": Calls(eval, f"exec({source!r})"), "module_src": source}
    (d / "network.pkl").write_bytes(pickle.dumps(found, protocol=2))
    return d / "network.pkl"


def imports_a_module(d: Path, canary: Path) -> Path:
    (d / "a.pt").write_bytes(b"\x80\x02cantigravity\ngeohash\n.")
    return d / "a.pt"


def refers_to_itself(d: Path, canary: Path) -> Path:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    return saved(loop, d / "a.pt")


def rezipped(d: Path, content: dict[str, torch.Tensor], how: int, more: dict[str, bytes]) -> Path:
    """What torch.save writes, in an archive of another kind; its own reader takes it."""
    whole = io.BytesIO()
    torch.save(content, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(d / "a.pt", "w", how) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
        for name, text in more.items():
            archive.writestr(name, text)
    return d / "a.pt"


def zip_bomb(d: Path, canary: Path) -> Path:
    """64 MiB of zeros in 64 KiB; it could as well be terabytes."""
    return rezipped(d, {"x": torch.zeros(2**24)}, zipfile.ZIP_DEFLATED, {})


def zip_that_lies_about_sizes(d: Path, canary: Path) -> Path:
    path = saved(weights(), d / "a.pt")
    content = bytearray(path.read_bytes())
    where = content.rfind(b"PK\x01\x02")
    content[where + 20 : where + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(bytes(content))
    return path


def path_traversal(d: Path, canary: Path) -> Path:
    return rezipped(d, weights(), zipfile.ZIP_STORED, {"../../canary": b"x", "/canary": b"x"})


def torchscript(d: Path, canary: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), d / "a.pt")
    return d / "a.pt"


def legacy_tar(d: Path, canary: Path) -> Path:
    evil = pickle.dumps(Calls(os.system, touch(canary)), protocol=2)
    with tarfile.open(d / "a.pt", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(evil)
            archive.addfile(member, io.BytesIO(evil))
    return d / "a.pt"


def endless_tensor(d: Path, canary: Path) -> Path:
    """One number, shown as 2^40 of them: a file of a kilobyte that asks for terabytes."""
    return saved({"x": torch.zeros(1).expand(2**40)}, d / "a.pt")


def sparse_tensor(d: Path, canary: Path) -> Path:
    where, one = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1)
    return saved({"x": torch.sparse_coo_tensor(where, one, (2**40,), check_invariants=True)}, d / "a.pt")


def tensors(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + body


def entry(first: int, last: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [first, last]}


def written(d: Path, content: bytes, name: str = "a.safetensors") -> Path:
    (d / name).write_bytes(content)
    return d / name


def giant_header(d: Path, canary: Path) -> Path:
    return written(d, tensors(b"{}", b"x" * 64, length=2**62))


def header_of_a_gigabyte_in_a_sparse_file(d: Path, canary: Path) -> Path:
    path = written(d, tensors(b"{", length=2**30))
    with open(path, "r+b") as file:
        file.truncate(2**30 + 64)  # a hole: it takes no room
    return path


def overlapping_offsets(d: Path, canary: Path) -> Path:
    header = json.dumps({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}).encode()
    return written(d, tensors(header, bytes(24)))


def offsets_outside(d: Path, canary: Path) -> Path:
    return written(d, tensors(json.dumps({"a": entry(0, 2**40, [2**38])}).encode(), bytes(16)))


def shape_that_overflows(d: Path, canary: Path) -> Path:
    return written(d, tensors(json.dumps({"a": entry(0, 16, [2**33, 2**33])}).encode(), bytes(16)))


def metadata_without_bottom(d: Path, canary: Path) -> Path:
    header = {"__metadata__": {"slowflow": "[" * 200_000}, "a": entry(0, 16, [4])}
    return written(d, tensors(json.dumps(header).encode(), bytes(16)))


def metadata_with_endless_number(d: Path, canary: Path) -> Path:
    header = {"__metadata__": {"slowflow": '{"step": ' + "9" * 10_000 + "}"}, "a": entry(0, 16, [4])}
    return written(d, tensors(json.dumps(header).encode(), bytes(16)))


PAYLOADS = (
    reduce_to_system,
    nested_in_a_mapping,
    builtins_eval,
    builtins_exec_in_legacy_pickle,
    torch_hub,
    subprocess_in_a_bare_pickle,
    set_state,
    tensor_subclass,
    namespace_with_a_call_inside,
    edm_style_source,
    imports_a_module,
    refers_to_itself,
    zip_bomb,
    zip_that_lies_about_sizes,
    path_traversal,
    torchscript,
    legacy_tar,
    endless_tensor,
    sparse_tensor,
    giant_header,
    header_of_a_gigabyte_in_a_sparse_file,
    overlapping_offsets,
    offsets_outside,
    shape_that_overflows,
    metadata_without_bottom,
    metadata_with_endless_number,
)


def refused(work: Callable[[], Any], error: type[SlowFlowError]) -> str:
    """What the refusal says; it may take less than 200 MB."""
    global _listening
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _listening = True
    try:
        with pytest.raises(error) as caught:
            work()
    finally:
        _listening = False
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    return str(caught.value)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: p.__name__)
def test_a_hostile_checkpoint_is_refused_and_nothing_runs(tmp_path, nothing_runs, payload):
    path = payload(tmp_path, nothing_runs)
    files = sorted(p.name for p in tmp_path.iterdir())
    text = refused(lambda: checkpoint.load(path), CheckpointError)
    assert path.name in text
    assert "\n" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == files


@pytest.mark.parametrize("payload", [reduce_to_system, zip_bomb, torchscript, endless_tensor, giant_header])
def test_the_command_line_says_it_in_one_sentence(tmp_path, nothing_runs, payload):
    path = payload(tmp_path, nothing_runs)
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 3
    assert len([line for line in result.stderr.splitlines() if line.startswith("slowflow: ")]) == 1
    assert "Traceback" not in result.stderr


def test_the_payloads_are_live(tmp_path):
    """What is refused above would have run in a loader that trusts its file."""
    canary = tmp_path / "canary"
    with open(reduce_to_system(tmp_path, canary), "rb") as file, zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        pickle.loads(archive.read(name))  # noqa: S301
    assert canary.exists()


def test_what_trainers_really_write_is_still_opened(tmp_path):
    args = argparse.Namespace(lr=1e-4, model="SiT-XL/2")
    content = {"model": weights(), "ema": weights(), "opt": {"state": {}}, "args": args}
    assert checkpoint.load(saved(content, tmp_path / "a.pt")).part == "ema"
    old = saved(weights(), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert checkpoint.load(old).part == "flat"
    tied = torch.zeros(3)
    assert len(checkpoint.load(saved({"a": tied, "b": tied, "c": tied[1:]}, tmp_path / "c.pt")).tensors) == 3


# --- data


def test_arrays_of_objects_are_refused(tmp_path, nothing_runs):
    values = np.empty(1, dtype=object)
    values[0] = Calls(os.system, touch(nothing_runs))
    np.savez(tmp_path / "a.npz", data=values)
    assert "not a readable .npz" in refused(lambda: open_data(tmp_path / "a.npz"), DataError)


def test_a_pickle_that_calls_itself_an_array_is_refused(tmp_path, nothing_runs):
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Calls(os.system, touch(nothing_runs)), protocol=2))
    refused(lambda: open_data(tmp_path / "a.npz"), DataError)
    folder = tmp_path / "vae-sd" / "00000"
    folder.mkdir(parents=True)
    np.save(folder / "img-mean-std-00000000.npy", np.array([Calls(os.system, touch(nothing_runs))], dtype=object))
    listing = {"labels": [["00000/img-mean-std-00000000.npy", 0]]}
    (tmp_path / "vae-sd" / "dataset.json").write_text(json.dumps(listing))
    assert "not a readable array" in refused(lambda: open_data(tmp_path), DataError)


def test_an_npz_that_unfolds_is_refused(tmp_path, nothing_runs):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        head = io.BytesIO()
        shape = (2**20, 1, 32, 32)
        np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with archive.open("data.npy", "w", force_zip64=True) as member:
            member.write(head.getvalue())
            for _ in range(256):
                member.write(bytes(2**20))
    assert "compressed" in refused(lambda: open_data(tmp_path / "a.npz"), DataError)


def test_an_array_that_claims_more_than_its_file_is_refused(tmp_path, nothing_runs):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 1, 8, 8)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("data.npy", head.getvalue() + bytes(64))
    refused(lambda: open_data(tmp_path / "a.npz"), DataError)


def test_a_list_that_leads_out_of_its_folder_is_refused(tmp_path, nothing_runs):
    place = tmp_path / "vae-sd"
    (place / "00000").mkdir(parents=True)
    np.save(place / "00000" / "img-mean-std-00000000.npy", np.zeros((2, 2, 2), np.float32))
    np.save(tmp_path / "secret.npy", np.zeros((2, 2, 2), np.float32))
    (place / "dataset.json").write_text(json.dumps({"labels": [["../secret.npy", 0]]}))
    assert "outside" in refused(lambda: open_data(tmp_path), DataError)


# --- folders


@pytest.mark.parametrize(
    "text",
    [
        '{"_class_name": "os.system"}',
        '{"_class_name": "../../evil"}',
        "{\"_class_name\": \"__import__('os').system('touch canary')\"}",
        '{"_class_name": ["UNet2DModel"]}',
        '{"_class_name": "DiffusionPipeline"}',
        '{"_class_name": "' + "A" * 100_000 + '"}',
        "[" * 200_000,
        '{"_class_name": ' + "9" * 10_000 + "}",
        '{"_class_name": "UNet2DModel", "sample_size": NaN, "block_out_channels": "x"}',
    ],
    ids=range(9),
)
def test_configs_with_tricks_are_refused(tmp_path, nothing_runs, text):
    pytest.importorskip("diffusers")
    (tmp_path / "config.json").write_text(text)
    checkpoint.save(tmp_path / "diffusion_pytorch_model.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError) as caught:
        pretrained.load_module(tmp_path, "a test")
    assert len(str(caught.value)) < 1000


def test_code_in_a_folder_is_never_imported(tmp_path, nothing_runs):
    pytest.importorskip("diffusers")
    unet = tmp_path / "unet"
    unet.mkdir()
    for place in (tmp_path, unet):
        (place / "modeling_custom.py").write_text(f"open({str(nothing_runs)!r}, 'w')\nclass Net: pass\n")
        (place / "__init__.py").write_text(f"open({str(nothing_runs)!r}, 'w')\n")
    config = {"_class_name": "Net", "auto_map": {"AutoModel": "modeling_custom.Net"}, "trust_remote_code": True}
    (unet / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["modeling_custom", "Net"]}))
    evil = {"x": Calls(os.system, touch(nothing_runs))}
    torch.save(evil, unet / "diffusion_pytorch_model.bin")
    result = CliRunner().invoke(app, ["check", str(tmp_path), "--family", "ddpm"])
    assert result.exit_code == 3, result.stderr
    (unet / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    assert CliRunner().invoke(app, ["check", str(tmp_path), "--family", "ddpm"]).exit_code == 3
    assert "modeling_custom" not in sys.modules


@pytest.mark.parametrize("index", ["99999", "9" * 5000, "²", "٣"])
def test_a_file_that_numbers_its_blocks_absurdly_builds_nothing(tmp_path, index):
    tensors = {
        "x_embedder.proj.weight": torch.zeros(64, 1, 2, 2),
        "pos_embed": torch.zeros(1, 16, 64),
        "y_embedder.embedding_table.weight": torch.zeros(11, 64),
        "final_layer.linear.weight": torch.zeros(4, 64),
        f"blocks.{index}.attn.qkv.weight": torch.zeros(192, 64),
    }
    torch.save(tensors, tmp_path / "a.pt")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "a.pt"), "--heads", "4"])
    assert result.exit_code == 3, result.stderr
    assert len(result.stderr) < 8000
