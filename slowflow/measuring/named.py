"""What every estimate of gamma is called where people read it: the key stays in files and in `--json`.

A key is `<family>_<rest>`: signal and noise are the two clocks, everything else is read from the main reference.
"""

from __future__ import annotations

from collections.abc import Mapping

from slowflow.records import Estimate, GammaFit, excess_key

RAW = {
    "band": "band: line below 95 % of states",
    "q50": "line through the median",
    "q90": "line below 90 % of states",
}
EXCESS = {
    "genuine": "over genuine states",
    "exact": "over a perfect model",
    "coarse": "over a perfect model, same steps",
    "spread": "width by the spread, over genuine states",
    "edge": "width by the edge, over genuine states",
    "slope": "left at step size zero",
    "step_term": "due to the step size",
    "floor": "made by the instrument alone",
    "guided_minus_unguided": "added by guidance",
}
CLOCKS = ("signal", "noise")


def place(name: str) -> tuple[str, str]:
    """(family: raw, excess, signal or noise; what the estimate says)."""
    if name in RAW:
        return "raw", RAW[name]
    family, _, rest = name.partition("_")
    if family in CLOCKS and rest in EXCESS:
        return family, EXCESS[rest]
    return "excess", EXCESS.get(rest if family == "excess" else name, name)


def headings(fit: GammaFit) -> dict[str, str]:
    """family -> what its estimates have in common, in reading order."""
    return {
        "raw": f"raw fan, no null taken off ('{fit.band_reference}')",
        "excess": f"excess ('{fit.excess_reference}')",
        **{clock: f"excess ({clock} clock)" for clock in CLOCKS},
    }


def grouped(estimates: Mapping[str, Estimate]) -> dict[str, list[tuple[str, str, Estimate]]]:
    """family -> (key, meaning, estimate) of every estimate of it, in reading order."""
    found: dict[str, list[tuple[str, str, Estimate]]] = {family: [] for family in ("raw", "excess", *CLOCKS)}
    for name, one in estimates.items():
        family, meaning = place(name)
        found[family].append((name, meaning, one))
    return {family: rows for family, rows in found.items() if rows}


def taken(fit: GammaFit) -> str:
    """Key of the estimate that gamma is; the method itself where no estimate is named by it (a pilot)."""
    if fit.method != "excess":
        return fit.method
    return excess_key(fit.estimates) or fit.method
