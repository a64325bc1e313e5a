"""What every control reads, in units of gamma: one row a reading, world and control.

    found = 2 sum_t w_t (mean slack of the control - mean slack of its base)

with the times and weights of `estimators`, so that a number here means what an excess in a measurement means. Intervals
are from resampled trajectories; a control made from genuine states is resampled with them, faults with the null, the
null apart from genuine states. The null is asked in every world at once, so its intervals are at level 1 - 0.05 / worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slowflow.flow.interpolants import Interpolant
from slowflow.measuring.bootstrap import LEVEL
from slowflow.measuring.calibration.controls import CONTROLS, Control
from slowflow.measuring.calibration.worlds import WORLDS
from slowflow.measuring.estimators import Curves, Draws, mean_curves, with_interval
from slowflow.measuring.references import REFERENCES, Reference
from slowflow.measuring.slack import Reading, Slack, everyone
from slowflow.measuring.verdict import joint_level

Row = dict[str, str | int | float | None]
Truths = Mapping[str, Mapping[str, np.ndarray]]


def readings_of(
    stored: Mapping[str, np.ndarray], names: Sequence[str], t: np.ndarray, path: Interpolant
) -> dict[tuple[str, str], dict[str, Reading]]:
    """(reference, reading) -> kind of states -> reading.

    Args:
        stored: `kind/reference/array` -> [n, time]. names: of the references. t: [time]. path: the interpolant.
    """
    found: dict[tuple[str, str], dict[str, Reading]] = {}
    for kind in ("genuine", *(control.name for control in CONTROLS)):
        for name in names:
            own = {k.split("/")[2]: v for k, v in stored.items() if k.startswith(f"{kind}/{name}/")}
            reference = REFERENCES.get(name)
            if isinstance(reference, Reference):
                found.setdefault((name, name), {})[kind] = Slack(m=own["m"], t=t, residual=own["residual"])
            else:
                for clock, reading in reference.clocks(own, t, path).items():
                    found.setdefault((name, clock), {})[kind] = reading
    return found


def rows_of(
    world: str, readings: Mapping[tuple[str, str], Mapping[str, Reading]], truths: Truths, seed: int
) -> list[Row]:
    """The rows of one world.

    Args:
        world: its name. readings: as `readings_of` gives them. truths: control -> reading -> true slack at each time.
        seed: of the bootstrap.
    """
    draws, rows = Draws(seed), []
    for (reference, name), kinds in readings.items():
        curves = mean_curves(name, {"genuine": kinds["genuine"], "exact": kinds["null"]}, draws)
        for control in CONTROLS:
            true = control.size or _truth(truths, control.name, name, curves)
            here: Row = {"reference": reference, "reading": name, "field": world, "control": control.name}
            rows.append({**here, "truth": true, **_found(kinds, control, curves, draws)})
    return rows


def _truth(truths: Truths, control: str, name: str, curves: Curves) -> float | None:
    """True gamma under the weights of the reading; 0 for the null, None where there is no closed form."""
    if control == "null":
        return 0.0
    slack = truths.get(control, {}).get(name)
    return None if slack is None else float(2.0 * slack[curves.kept] @ curves.weight)


def _found(kinds: Mapping[str, Reading], control: Control, curves: Curves, draws: Draws) -> Row:
    """The gap to the base with its interval and its standard error."""
    ours, theirs = kinds[control.name], kinds[control.base]
    gaps = []
    for drawn in ((everyone(ours), everyone(theirs)), _drawn(control, len(ours), len(theirs), draws)):
        slack = [one.mean_slack(d)[:, curves.kept] for one, d in zip((ours, theirs), drawn, strict=True)]
        gaps.append(2.0 * (slack[0] - slack[1]) @ curves.weight)
    level = joint_level(len(WORLDS)) if control.sort == "zero" else LEVEL
    found = with_interval(float(gaps[0][0]), gaps[1], min(len(ours), len(theirs)), level)
    return {
        "found": found.value,
        "low": found.low,
        "high": found.high,
        "error": float(gaps[1].std()),
        "n": found.n,
    }


def _drawn(control: Control, ours: int, theirs: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    return (
        draws.of("genuine" if control.on_images else "null", ours),
        draws.of("genuine" if control.base == "genuine" else "null", theirs),
    )
