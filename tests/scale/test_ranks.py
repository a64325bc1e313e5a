"""Who am I among several: variables of launchers, shares, and job arrays."""

import os
import threading
from datetime import timedelta

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from slowflow.errors import EnvironmentProblem, InputError
from slowflow.io import ranks
from slowflow.io.launch import OtherRankError, StoreLink, joined
from slowflow.io.ranks import ALONE, Ranks, ShareDone

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (TORCHRUN, (5, 16, 1)),
        (SRUN, (3, 8, 3)),
        ({**SRUN, **TORCHRUN}, (5, 16, 1)),  # torchrun inside a Slurm step
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # a batch script that starts one process
    ],
)
def test_launchers_are_understood(environment, expected):
    found = ranks.launched(environment)
    assert (found and (found.rank, found.world, found.local)) == expected


def test_variables_that_are_no_numbers_are_named():
    with pytest.raises(InputError, match="RANK is 'first', expected a number"):
        ranks.launched({**TORCHRUN, "RANK": "first"})
    with pytest.raises(InputError, match="rank 16 of 16"):
        ranks.launched({**TORCHRUN, "RANK": "16"})


def array(task, first, last, step):
    count = len(range(first, last + 1, step))
    names = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 20))
def test_tasks_of_a_slurm_array_are_numbered_without_gaps(first, step, count):
    last = first + step * (count - 1)
    found = [ranks.array_task(array(task, first, last, step)) for task in range(first, last + 1, step)]
    assert [(r.rank, r.world) for r in found] == [(k, count) for k in range(count)]


def test_an_array_with_gaps_or_none_at_all_is_refused():
    with pytest.raises(InputError, match="no SLURM_ARRAY_TASK_ID"):
        ranks.array_task({})
    with pytest.raises(InputError, match="have gaps"):
        ranks.array_task({**array(9, 0, 9, 1), "SLURM_ARRAY_TASK_COUNT": "3"})


@pytest.mark.parametrize(
    ("nodes", "host"), [("gpu[003-007,011]", "gpu003"), ("gpu7,gpu9", "gpu7"), ("a-b1", "a-b1"), ("n[1,3]", "n1")]
)
def test_ranks_of_a_slurm_step_meet_on_its_first_node(nodes, host):
    told = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2"}
    place = ranks.meeting_place(told)
    assert place["MASTER_ADDR"] == host
    assert 20_000 <= int(place["MASTER_PORT"]) < 40_000
    assert place != ranks.meeting_place({**told, "SLURM_STEP_ID": "3"})  # two steps of a job at once
    assert ranks.meeting_place({**told, "MASTER_ADDR": "x", "MASTER_PORT": "1"}) == {
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }
    with pytest.raises(InputError, match="start with torchrun"):
        ranks.meeting_place({})


@given(st.integers(1, 7), st.integers(0, 30), st.sets(st.integers(0, 29)))
def test_shares_are_disjoint_and_leave_nothing_out(tmp_path_factory, world, n, done):
    folder = tmp_path_factory.mktemp("shares")
    names = [f"{k}" for k in range(n)]
    for k in done & set(range(n)):
        (folder / f"{k}").touch()
    shares = [Ranks(rank, world).share(folder, names) for rank in range(world)]
    wanted = {name for name in names if int(name) not in done}
    assert sum(map(len, shares)) == len(wanted)
    assert set().union(*shares) == wanted


def test_the_last_task_of_an_array_merges_and_only_one_does(tmp_path):
    first, second = Ranks(0, 2), Ranks(1, 2)
    (tmp_path / "a").touch()
    with pytest.raises(ShareDone, match=r"task 0 of 2 .* 1 of 2 shards are missing") as told:
        first.gathered(tmp_path, ["a", "b"])
    assert told.value.exit_code == 0
    (tmp_path / "b").touch()
    second.gathered(tmp_path, ["a", "b"])
    with pytest.raises(ShareDone, match="another task merges"):
        first.gathered(tmp_path, ["a", "b"])
    ALONE.gathered(tmp_path, ["a", "b"])  # a plain command asks nobody


# --- joined ranks, as threads around one store


def together(world, work):
    """What `work(Ranks)` returns or raises on every rank."""
    store, found = dist.HashStore(), {}

    def run(rank):
        here = Ranks(rank, world, link=StoreLink(store, rank, world))
        try:
            found[rank] = work(here)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    return [found[rank] for rank in range(world)]


def test_joined_ranks_deal_out_what_is_missing(tmp_path):
    names = [str(k) for k in range(12)]
    for name in names[1::3]:
        (tmp_path / name).touch()
    # what a run of three ranks lacks when its ranks 0 and 2 were lost: two ranks share it evenly
    shares = together(2, lambda here: here.share(tmp_path, names))
    assert sorted(map(len, shares)) == [4, 4]
    assert shares[0] | shares[1] == set(names) - set(names[1::3])


def test_a_rank_that_fails_stops_those_that_wait_for_it():
    def work(here):
        if here.rank == 1:
            here.link.fail("the disk is full", 4)
            return None
        here.meet()

    found = together(3, work)
    for other in (found[0], found[2]):
        assert isinstance(other, OtherRankError)
        assert str(other) == "rank 1 of 3: the disk is full"
        assert other.exit_code == 4


def test_only_the_first_failure_speaks():
    assert sorted(together(4, lambda here: here.link.fail(f"no {here.rank}", 3))) == [False, False, False, True]


def test_files_that_other_ranks_cannot_see_are_named(tmp_path):
    found = together(2, lambda here: here.gathered(tmp_path, ["a"]))
    assert isinstance(found[0], InputError)
    assert "a folder that all ranks share" in str(found[0])
    assert found[1] is None


def test_a_store_that_is_gone_is_said_to_be_gone():
    server = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("127.0.0.1", server.port, 2, wait_for_workers=False, timeout=timedelta(seconds=2))
    link = StoreLink(client, 1, 2)
    link.check()
    del server
    with pytest.raises(EnvironmentProblem, match="the rank that kept the others together is gone"):
        link.check()


def test_alone_nothing_is_joined(monkeypatch):
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    with joined() as here:
        assert here == ALONE
        assert here.leads
    with joined(Ranks(1, 3)) as here:
        assert ranks.current() == here
        assert here.array
        assert here.leads
    assert ranks.current() == ALONE


def test_a_launch_without_a_meeting_place_is_refused(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "MASTER_"))]:
        monkeypatch.delenv(name)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="MASTER_ADDR"), joined():
        raise AssertionError
