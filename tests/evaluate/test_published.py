"""Published tables: what was read is what is stored, each with its source; and the right rows beside a number."""

from __future__ import annotations

from typing import Any

import pytest

from slowflow.errors import InputError
from slowflow.published import CERTAINTIES, Row, Table, beside, rows

PROTOCOL: dict[str, Any] = {
    "model": {"name": "SiT-XL-2-256"},
    "n": 50_000,
    "steps": 125,
    "nfe": 250,
    "sampler": "heun",
    "guidance": 1.5,
    "labels": "balanced: sample i has class i mod classes",
    "features": {"name": "FID", "sha256": "6726825d"},
    "reference": {"name": "VIRTUAL_imagenet256_labeled", "sha256": "0"},
}


def found(table: str, model: str, data: str, method: str = "", **protocol: Any) -> Row:
    fitting = [
        row
        for row in rows()
        if (row.table.name, row.model, row.data, row.method) == (table, model, data, method)
        and all(row.protocol.get(key) == value for key, value in protocol.items())
    ]
    assert len(fitting) == 1, fitting
    return fitting[0]


def test_every_row_says_where_it_comes_from_and_how_surely() -> None:
    for row in rows():
        assert row.table.certainty in CERTAINTIES
        assert "arXiv" in row.table.source
        assert row.table.note
        assert row.metrics, row.name
        assert all(isinstance(value, float) and value > 0 for value in row.metrics.values()), row.name
        assert row.features in ("FID", "none")


def test_no_row_stands_twice_in_a_table() -> None:
    keys = [(row.name, tuple(sorted(row.protocol.items(), key=str))) for row in rows()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("table", "size"), [("mixflow-4", 36), ("mixflow-8", 12), ("mixflow-7", 8), ("mixflow-ablation", 12)]
)
def test_the_papers_tables_are_whole(table: str, size: int) -> None:
    assert sum(row.table.name == table for row in rows()) == size


@pytest.mark.parametrize(
    ("model", "data", "gains"),
    [
        ("SiT-B/2", "ImageNet 256", (13.0, 12.9, 13.5)),
        ("SiT-XL/2", "ImageNet 256", (15.8, 17.8, 18.4)),
        ("SiT-XL/2", "ImageNet 512", (17.8, 19.0, 19.9)),
    ],
)
def test_table_4_has_the_gains_that_were_computed_from_it_by_hand(
    model: str, data: str, gains: tuple[float, ...]
) -> None:
    for steps, gain in zip((250, 50, 20), gains, strict=True):
        before, after = (
            found("mixflow-4", model, data, method, steps=steps, guidance=1.0).metrics["fd"]
            for method in ("", "MixFlow")
        )
        assert 100 * (1 - after / before) == pytest.approx(gain, abs=0.06)  # rounded to a tenth


def test_more_steps_and_guidance_never_make_fid_worse_in_table_4() -> None:
    table = [row for row in rows() if row.table.name == "mixflow-4"]
    for row in table:
        for other in table:
            same = (row.model, row.method, row.data) == (other.model, other.method, other.data)
            no_less = all(row.protocol[key] >= other.protocol[key] for key in ("steps", "guidance"))
            assert not (same and no_less) or row.metrics["fd"] <= other.metrics["fd"], (row, other)


def test_single_numbers_are_those_of_the_papers() -> None:
    assert found("mixflow-8", "RAE-XL", "ImageNet 256", "MixFlow", guidance=1.0).metrics == {
        "fd": 1.43,
        "sfd": 4.81,
        "is": 239.8,
        "precision": 0.80,
        "recall": 0.64,
    }
    assert found("sit", "SiT-XL/2", "ImageNet 256", guidance=1.5).metrics == {"fd": 2.06, "is": 270.27}
    assert found("dit", "DiT-XL/2", "ImageNet 512").metrics == {"fd": 3.04}
    assert found("repa", "REPA-XL/2", "ImageNet 256", guidance=1.8).metrics == {"fd": 1.42}
    assert found("mixflow-7", "SD 3.5", "text to image", "MixFlow", steps=10).metrics["dpg"] == 85.38


def test_the_nearest_row_comes_first_and_its_differences_are_said() -> None:
    near = beside(PROTOCOL)
    assert [one.row.model for one in near] == ["SiT-XL/2"] * 3
    assert all(one.row.data == "ImageNet 256" for one in near)
    assert [(one.row.table.name, one.row.method) for one in near[:2]] == [("mixflow-4", ""), ("mixflow-4", "MixFlow")]
    assert [one.row.protocol["steps"] for one in near[:2]] == [250, 250]  # the nearest to 250 calls
    assert near[0].differences == ["steps: 250 there, 125 here", "not stated there: n, nfe, labels"]
    assert not any(text.startswith("guidance") for one in near for text in one.differences)
    told = {one.row.table.name: one.differences for one in beside(PROTOCOL, limit=99)}
    assert "sampler: em-sit there, heun here" in told["mixflow-8"]


def test_a_protocol_that_is_a_rows_own_differs_in_nothing_stated() -> None:
    table = Table("t", "", "", "stated", "")
    row = Row(
        table, "SiT-XL/2", "ImageNet 256", {"fd": 2.0}, protocol={"n": 50_000, "labels": "balanced", "guidance": "some"}
    )
    assert row.differences(PROTOCOL) == ["not stated there: sampler, steps, nfe"]
    other = {**PROTOCOL, "n": 10_000, "labels": "random: uniform over classes", "guidance": 1.0}
    assert row.differences(other)[:3] == [
        "n: 50,000 there, 10,000 here",
        "guidance: some there, 1.0 here",
        "labels: balanced there, random here",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {"name": "FD-mnist"}},
        {"features": {"name": "FD-inception"}},
        {"reference": {"name": "mnist5k/heldout"}},
        {"model": {"name": "mine"}},
    ],
)
def test_nothing_is_put_beside_a_number_of_another_kind(changes: dict[str, Any]) -> None:
    assert beside({**PROTOCOL, **changes}) == []


def test_a_model_can_be_named_where_its_file_does_not_tell() -> None:
    named = beside({**PROTOCOL, "model": {"name": "last"}}, model="REPA-XL/2")
    assert {one.row.model for one in named} == {"REPA-XL/2"}
    with pytest.raises(InputError, match="no published model 'SiT-Z'"):
        beside(PROTOCOL, model="SiT-Z")
