"""Real processes: the same training and the same measurement for 1, 2 and 3 ranks, DDP and FSDP2, and one failure stops all."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slowflow.io import checkpoint

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import crew  # noqa: E402

NEAR = 1e-9
"""The sums of ranks are added in another order: in float64 that is about 1e-14 after 50 steps of Adam; asked for is 1e-5."""


def started(world, command, environment):
    """(exit codes, what each said) of processes with the given variables."""
    shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ranks = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**os.environ, **shared, **environment(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [rank.communicate(timeout=300) for rank in ranks]
    return [rank.returncode for rank in ranks], said


def start(world, *command):
    """The ranks of one launch, with torchrun's variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": str(world)}
    return started(world, command, lambda rank: {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)})


def run(world, task, out):
    codes, said = start(world, HERE / "crew.py", task, out)
    assert codes == [0] * world, "\n".join(err for _, err in said)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The numbers of one process, and its shared work."""
    out, before = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    numbers = crew.numbers(crew.trained(out / "state.safetensors"))
    crew.share_everything(out)
    torch.set_num_threads(before)
    return numbers, out


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two ranks have made."""
    out = tmp_path_factory.mktemp("two")
    run(2, "two", out)
    return out


def far(file, numbers):
    return crew.farthest(checkpoint.load(file).tensors, numbers)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_does(alone, pair, parallel):
    assert far(pair / f"{parallel}.safetensors", alone[0]) < NEAR


def test_parts_equal_replicas(pair):
    one, other = (checkpoint.load(pair / f"{parallel}.safetensors").tensors for parallel in ("ddp", "fsdp"))
    assert crew.farthest(one, other) < NEAR


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("what", ["measure", "evaluate"])
def test_two_ranks_measure_and_evaluate_to_the_same_bytes(alone, pair, what):
    assert contents(pair / what) == contents(alone[1] / what)


@pytest.mark.parametrize("begun", ["ddp", "fsdp"])
def test_one_process_goes_on_with_what_two_ranks_began(alone, pair, tmp_path, begun):
    place = tmp_path / "state.safetensors"
    shutil.copytree(pair / f"cut-{begun}", tmp_path, dirs_exist_ok=True)
    assert place.exists() == (begun == "ddp")
    assert crew.farthest(crew.numbers(crew.trained(place, seed=9)), alone[0]) < NEAR


def test_three_ranks_go_on_with_what_two_began_and_share_all_work(alone, pair, tmp_path):
    for begun in ("ddp", "fsdp"):
        shutil.copytree(pair / f"cut-{begun}", tmp_path / f"cut-{begun}")
    run(3, "three", tmp_path)
    for begun in ("ddp", "fsdp"):
        assert far(tmp_path / f"resumed-{begun}.safetensors", alone[0]) < NEAR
    for what in ("measure", "evaluate"):
        assert contents(tmp_path / what) == contents(alone[1] / what)


def test_a_signal_to_one_rank_stops_all_with_the_step_saved(alone, tmp_path):
    run(2, "stopped", tmp_path)
    for parallel in ("ddp", "fsdp"):
        folder = tmp_path / parallel
        assert {p.name for p in folder.glob("stopped-*")} == {"stopped-0", "stopped-1"}
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000005.safetensors"]
        steps = []
        state = crew.trained(folder / "state.safetensors", progress=lambda step, *_, steps=steps: steps.append(step))
        assert steps[0] == 8  # nothing of the seven is lost
        assert crew.farthest(crew.numbers(state), alone[0]) < NEAR
    kept = [
        checkpoint.load(tmp_path / p / "checkpoints" / "step-00000005.safetensors").tensors for p in ("ddp", "fsdp")
    ]
    assert crew.farthest(*kept) < NEAR


def test_parts_are_safetensors_and_older_ones_are_removed(pair):
    folder = pair / "fsdp"
    assert json.loads((folder / "state.json").read_text()) == {"step": 50}
    assert sorted(p.name for p in folder.iterdir()) == ["state-00000050", "state.json"]
    parts = sorted((folder / "state-00000050").iterdir())
    assert len(parts) == 2
    assert all(p.suffix == ".safetensors" for p in parts)


@pytest.mark.full
def test_two_ranks_train_as_one_does_in_float32(tmp_path):
    run(2, "single", tmp_path)
    alone = crew.numbers(crew.trained(tmp_path / "state", dtype=torch.float32, lr=2e-4, lr_final=2e-4))
    for parallel in ("ddp", "fsdp"):
        found = checkpoint.load(tmp_path / f"{parallel}.safetensors").tensors
        # the gradient of a key's bias is zero (softmax ignores it), so Adam makes steps of the rounding error there
        assert crew.farthest(without_key_biases(found), without_key_biases(alone)) < 1e-5


def without_key_biases(numbers):
    found = {name: tensor.clone() for name, tensor in numbers.items()}
    for name, tensor in found.items():
        if name.endswith("qkv.bias"):
            third = len(tensor) // 3
            tensor[third : 2 * third] = 0.0
    return found


# --- the command line


def verb(*words):
    return ["-m", "slowflow_cli", *map(str, words)]


def test_one_failure_stops_all_with_one_sentence(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("a file, not a folder")
    codes, said = start(2, *verb("measure", "digits-sit", "--data", "digits", "--out", file, "--json"))
    assert codes == [3, 3]
    assert [out for out, _ in said] == ["", ""]
    spoken = [line for _, err in said for line in err.splitlines() if line.startswith("slowflow: ")]
    assert spoken == [f"slowflow: {file} is a file; --out needs a folder"]


@pytest.mark.full
def test_a_rank_that_fails_while_others_wait_ends_them(tmp_path):
    codes, said = start(3, HERE / "crew.py", "failing", tmp_path)
    assert codes == [1, 1, 1]  # a script of one's own; the command line turns it into 3
    assert "InputError: the disk is full" in said[2][1]
    assert all("OtherRankError: rank 2 of 3: the disk is full" in err for _, err in said[:2])


def test_torchrun_posttrains_and_only_the_first_rank_prints(tmp_path):
    words = ["posttrain", "digits-sit", "--data", "digits", "--remedy", "plain", "--steps", 3, "--batch-size", 8]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *verb(*words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, *map(str, launch), "--out", str(tmp_path / "run"), "--json", "--parallel", "fsdp"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3  # one document: two ranks printing would make two


@pytest.mark.full
def test_a_slurm_step_shares_a_measurement_and_a_job_array_finishes_another(tmp_path):
    words = verb(
        "measure", "digits-sit", "--data", "digits", "--samples", 20, "--steps", 2, "--batch-size", 4, "--quiet"
    )
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NUM_TASKS": "2"}
    codes, said = started(
        2,
        [*words, "--out", tmp_path / "step", "--json"],
        lambda rank: {**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
    )
    assert codes == [0, 0], said
    assert json.loads(said[0][0])["verdict"]
    assert said[1][0] == ""
    array = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    for task in (2, 1):
        codes, said = started(
            1,
            [*words, "--out", tmp_path / "array", "--job-array", "--json"],
            lambda _, task=task: {**array, "SLURM_ARRAY_TASK_ID": str(task)},
        )
        assert codes == [0], said
        assert json.loads(said[0][0]).get("finished", True) == (task == 1)
    assert contents(tmp_path / "array") == contents(tmp_path / "step")
