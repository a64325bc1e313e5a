"""What the data, the model and the protocol of a measurement do to the meaning of its numbers: one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slowflow.measuring.measurement import Measurement

ON_THE_EDGE = 0.5
"""Share of a reference's m at or beyond an end of [0, 1] from which it is warned about."""


def cautions(measured: Measurement, steps: int) -> list[str]:
    """What this data and this protocol do to the meaning of the numbers."""
    found = [measured.facts["conventions"]] if measured.facts["conventions"] else []
    found += measured.facts.get("warnings", [])
    if measured.main_reference != "level":
        found.append(
            f"'level' was not measured; the verdict is read from '{measured.main_reference}', where a perfect model is not at zero"
        )
    if measured.config["probe"]["guidance"] != 1.0:
        found.append(
            "sampling was guided: its target is not the law of the nulls, so only guided minus unguided is a finding"
        )
    if measured.config["probe"]["backend"] == "approximate":
        found.append("the bank was searched approximately, which shifts m itself: see the signed error of the search")
    for name in measured.singles:
        share = float(measured.array("boundary", reference=name, steps=steps).mean())
        if share >= ON_THE_EDGE:
            found.append(
                f"at the boundary: {share:.0%} of all m under '{name}' lie at an end of [0, 1] and say nothing"
            )
    disagree = [n for n, facts in measured.facts["search"].items() if facts.get("agreement", 1.0) < 1.0]
    found += [f"the search engines disagree under '{name}'; its m cannot be trusted" for name in disagree]
    return found
