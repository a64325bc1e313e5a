"""Searching behind the sampling's back gives the same files; errors come out where they can be seen."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from slowflow.io.run import read_manifest
from slowflow.measuring import engine
from slowflow.measuring.behind import behind
from slowflow.measuring.engine import measure
from slowflow.records import Probe

CPU = torch.device("cpu")
PROBE = Probe(samples=20, steps=4, references=("own", "nearest", "level"), nulls=("genuine", "exact"), shard=8)


def test_the_same_files_whether_searched_at_once_or_behind(tmp_path, tiny_model, images, monkeypatch):
    threads, honest = set(), engine._write_shard

    def watched(*given):
        threads.add(threading.get_ident())
        honest(*given)

    monkeypatch.setattr(engine, "_write_shard", watched)
    files = []
    for name, overlap in (("at-once", None), ("behind", True)):
        measure(tiny_model(), images, PROBE, tmp_path / name, overlap=overlap)
        files.append(read_manifest(tmp_path / name, "measure")["files"])
        assert (threads == {threading.get_ident()}) is (overlap is None)
        threads.clear()
    assert files[0] == files[1]
    assert len(files[0]) > 5


def test_a_measure_that_asks_the_network_is_not_taken_apart(tmp_path, tiny_model, images, monkeypatch):
    class Seen(Exception):
        pass

    def behind(wanted, device):
        assert not wanted
        raise Seen

    monkeypatch.setattr(engine, "behind", behind)
    probe = replace(PROBE, samples=4, measures=("norms",), nulls=("genuine",), references=("own",))
    with pytest.raises(Seen):
        measure(tiny_model(), images, probe, tmp_path / "run", overlap=True)


def test_jobs_are_done_in_order_and_one_at_a_time():
    done, running = [], []

    def job(k):
        running.append(k)
        assert len(running) == 1
        time.sleep(0.01)
        running.remove(k)
        done.append(k)

    with behind(True, CPU) as later:
        for k in range(5):
            later(lambda k=k: job(k))
            assert len(done) >= k - 1  # no more than one waits
    assert done == [0, 1, 2, 3, 4]


def fails():
    raise ValueError("the disk is gone")


def test_what_a_job_raises_comes_out_at_the_next_one():
    with pytest.raises(ValueError, match="the disk is gone"), behind(True, CPU) as later:  # noqa: PT012
        later(fails)
        later(lambda: pytest.fail("went on after an error"))


def test_what_the_last_job_raises_comes_out_on_leaving():
    with pytest.raises(ValueError, match="the disk is gone"), behind(True, CPU) as later:
        later(fails)


def test_an_error_of_the_sampler_is_the_one_that_is_raised():
    with pytest.raises(KeyError), behind(True, CPU) as later:  # noqa: PT012
        later(fails)
        raise KeyError("sampler")
