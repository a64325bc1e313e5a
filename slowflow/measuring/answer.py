"""The machine-readable answer of `slowflow measure --json`: every curve with its interval, gamma, verdict and protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slowflow.config import canonical, plain_rows
from slowflow.records import Estimate

if TYPE_CHECKING:
    from slowflow.measuring.measurement import Measurement


def answer(measured: Measurement) -> dict[str, Any]:
    """Everything a program needs of a measurement, as plain values."""
    fit = measured.suggest()
    return {
        "references": {name: _curves(measured, name) for name in measured.references},
        "gamma": canonical(fit),
        "verdict": fit.verdict,
        "nfe": measured.facts["nfe"],
        "protocol": measured.protocol(),
        "search": measured.facts["search"],
        "measures": {name: plain_rows(measured.measure(name)) for name in measured.measures},
        "by_steps": {str(steps): canonical(measured.suggest(steps=steps)) for steps in measured.steps},
    }


def _curves(measured: Measurement, reference: str) -> dict[str, Any]:
    """The curves of one reference; those of `clocks` are the signal clock's, with the noise clock's beside them."""
    if reference in measured.singles:
        return _curve(measured, reference)
    return {**_curve(measured, "signal clock"), "noise": _curve(measured, "noise clock")}


def _curve(measured: Measurement, reading: str) -> dict[str, Any]:
    table, kinds = measured.summary(reading), measured.readings()[reading]
    n = len(kinds["model"])

    def curve(name: str, count: int = n) -> list[dict[str, Any]]:
        rows = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        return [canonical(Estimate(float(v), float(low), float(high), count)) for v, low, high in rows]

    out: dict[str, Any] = {"t": table["t"].tolist(), "m": curve("m_model"), "null": None, "excess": None}
    if "genuine" in kinds:
        count = len(kinds["genuine"])
        out |= {"null": curve("m_genuine", count), "excess": curve("excess_genuine", min(n, count))}
    if "exact" in kinds:
        out |= {"exact": curve("m_exact"), "excess_over_exact": curve("excess_exact")}
    for name in ("residual", "boundary"):
        out[name] = table[name].tolist() if name in table else None
    return out
