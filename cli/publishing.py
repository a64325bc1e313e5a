"""Published rows beside a number of the user's, for people."""

from __future__ import annotations

from typing import Any

from slowflow_cli import shared as s


def say_rows(output: s.Output, found: Any, rows: Any) -> None:
    """Published rows under an evaluation's number, and in what each protocol differs."""
    for near in rows:
        numbers = ", ".join(f"{found.label(m)} {value}" for m, value in near.row.metrics.items())
        output.say(f"        published: {near.row.name} ({near.row.settings}): {numbers} [{near.row.table.certainty}]")
        if near.differences:
            output.say(f"          not the same protocol: {'; '.join(near.differences)}")


def say_published(output: s.Output, name: str, found: Any, model: str | None) -> None:
    """An evaluation's own numbers and the rows that may stand beside them; nothing where no table is about such numbers."""
    from slowflow.published import beside

    steps = max(found.steps)
    rows = beside(found.protocol(steps), model=model)
    if rows:
        own = ", ".join(f"{found.label(m)} {found.estimate(m, steps)}" for m in found.metrics)
        output.say(f"\n{name} at {steps} steps: {own}")
        say_rows(output, found, rows)
