"""study: run every cell of a study; one folder, resumable after a stop at any moment.

    out/config.json       the protocol: what may not change once the folder exists
    out/plan.json         (arm, seed) in running order
    out/base/             the base, where the study trains its own
    out/measure-base/     the lag of the base
    out/measure-fit/      the base measured with everything that `measured = true` may ask for
    out/arms/NAME-seed0/  one folder a cell
    out/table.csv         every number so far, rewritten after each cell
    out/manifest.json     written when every cell of the plan is finished

Arms may be added to a finished study: the same command with the longer file goes on from there.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from slowflow.config import canonical, plain_rows
from slowflow.data.open import open_data
from slowflow.errors import InputError
from slowflow.evaluating.features import open_features
from slowflow.families.open import direction_test, identity, open_model
from slowflow.flow.placing import place
from slowflow.io import atomic
from slowflow.io.run import RunFolder
from slowflow.study.cell import Cell, cost
from slowflow.study.config import Protocol, Study
from slowflow.study.shared import Shared
from slowflow.sweep.folder import BASE, StudyResult
from slowflow.train.loop import check_data
from slowflow.train.pretrain import pretrain

Progress = Callable[[str, int, int, str], None]
TABLE = "table.csv"


def run_study(
    study: Study,
    out: str | Path,
    *,
    only: str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> StudyResult:
    """Run what is missing of a study and return all it has found.

    Args:
        study: protocol and arms.
        out: its folder; another protocol on the same folder is refused, further arms are welcome.
        only: run only arms whose name fits this pattern (`*` and `?`); the others stay as they are.
        device: where the model is trained and sampled; it is not part of the study.
        progress: called with (stage, network calls done, network calls in all, note).

    Raises:
        InputError: data, base and features do not fit together, or no arm fits `only`.
        ConfigMismatchError: the folder holds a study with another protocol.
    """
    chosen = _chosen(study, only)
    folder = RunFolder(out, "study", study.protocol.identity)
    shared = _shared(study.protocol, folder.path, device, progress)
    cells = [Cell(shared, arm, seed) for arm, seed in study.cells()]
    for cell in cells:
        if cell.seed == study.protocol.seeds[0]:
            _refuse_unfit(cell)
    # the base is measured first: every other lag is a difference from it
    run = [cell for cell in cells if cell.arm.name in chosen]
    missing = [cell for cell in run if not cell.finished]
    if missing:
        folder.reopen()  # arms that were added to a finished study
    atomic.write_json(folder.path / "plan.json", [[cell.arm.name, cell.seed] for cell in cells])
    total = sum(cell.cost() for cell in run)
    done, beat = total - sum(cell.cost() for cell in missing), folder.watched(None)
    for number, cell in enumerate(missing):
        title = f"{cell.arm.name}, seed {cell.seed}"
        place = f"{len(run) - len(missing) + number + 1} of {len(run)}"

        def report(some: int, note: str, title: str = title, place: str = place, before: int = done) -> None:
            beat(before + some, total, f"{place}: {title}, {note}")
            if progress is not None:
                progress("study", before + some, total, f"{place}: {title}, {note}")

        cell.run(report)
        done += cell.cost()
        atomic.write_text(folder.path / TABLE, StudyResult.load(folder.path).rows.to_csv(index=False))
        report(0, "finished", before=done)
    result = StudyResult.load(folder.path)
    if all(cell.finished for cell in cells):
        atomic.write_text(folder.path / TABLE, result.rows.to_csv(index=False))
        failed = canonical(result.failures.to_dict("records"))
        folder.finish([TABLE, "plan.json"], {"cells": len(cells), "failed": failed})
    return result


def _chosen(study: Study, only: str | None) -> set[str]:
    """Names of the arms that fit the pattern, and of the base, which every lag is compared with."""
    chosen = {arm.name for arm in study.arms if only is None or fnmatch.fnmatchcase(arm.name, only)}
    if not chosen:
        raise InputError(f"no arm fits '{only}' (arms: {', '.join(arm.name for arm in study.arms)})")
    return chosen | {BASE}


def _shared(protocol: Protocol, path: Path, device: torch.device | str, progress: Progress | None) -> Shared:
    """Open data, base and features, and check that they fit together."""
    if protocol.base is not None:

        def report(step: int, steps: int, note: str) -> None:
            if progress is not None:
                progress("base", step, steps, note)

        base = open_model(pretrain(protocol.base, path / "base", device=device, progress=report)).model
    else:
        base = open_model(str(protocol.model), protocol.family, protocol.opening).model
    place(base.net, torch.device(device))
    base.net.eval()
    data = open_data(protocol.data, classes=base.classes)
    check_data(base, data)
    held = len(data.split(protocol.heldout)[1])
    if protocol.sampling.samples > held:
        raise InputError(
            f"the study asks for {protocol.sampling.samples} samples, but '{data.name}' holds out {held} images: both sides "
            "need the same n; ask for fewer samples or hold out more"
        )
    test = direction_test(base, data)
    if test.problem:
        raise InputError(test.problem)
    features = open_features(protocol.features, base.shape, device=base.device)
    return Shared(path, protocol, base, identity(base), data, features)


def _refuse_unfit(cell: Cell) -> None:
    """Refuse, before anything is run, a remedy or a sampler that this base or this study cannot support."""
    arm, shared = cell.arm, cell.shared
    if arm.wants_measurement:
        if shared.protocol.probe is None:
            raise InputError(
                f"the arm '{arm.name}' is made from the measurement of the base: the study needs a [measure]"
            )
        return
    try:
        cell.check()
    except InputError as error:
        raise InputError(f"the arm '{arm.name}' does not fit '{shared.base.name}': {error}") from error


def planned(study: Study, only: str | None = None) -> list[dict[str, Any]]:
    """Every cell in running order with its cost in network calls; opens nothing.

    Raises:
        InputError: no arm fits `only`.
    """
    chosen = _chosen(study, only)
    cells = [(arm, seed) for arm, seed in study.cells() if arm.name in chosen]
    return [{"arm": arm.name, "seed": seed, "calls": cost(study.protocol, arm)} for arm, seed in cells]


def summary(result: StudyResult) -> dict[str, Any]:
    """The machine-readable answer of `slowflow study --json`."""
    return {
        "table": plain_rows(result.rows),
        "lags": plain_rows(result.lags),
        "failed": plain_rows(result.failures),
        "protocol": result.protocol,
    }
