"""study, compare: many post-trainings under one protocol, and finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s
from slowflow_cli.publishing import say_published


def study(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The study's .toml file (docs/studies.md).")],
    out: Annotated[Path, typer.Option("--out", help="Study folder; the same command again resumes.")],
    only: Annotated[
        str | None, typer.Option("--only", help="Run only arms whose name fits this pattern, such as 'mixflow-*'.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List arms and cost, and run nothing.")] = False,
    device: s.Device = "auto",
    threads: s.Threads = 0,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> int:
    """Run every arm of a study: the same seeds, averages, network calls and n for all of them."""
    output = s.Output(json, quiet)
    where, _ = s.setup(threads, device)
    from slowflow.study.config import read_study
    from slowflow.study.engine import planned, run_study, summary

    told = read_study(config)
    if told.protocol.opening.factory is not None:
        s.import_here()
    if dry_run:
        rows = planned(told, only)
        for row in rows:
            output.say(f"  {row['arm']:<32} seed {row['seed']}  {row['calls']:>14,} network calls")
        output.say(f"  {len(rows)} cells, {sum(row['calls'] for row in rows):,} network calls")
        output.answer({"plan": rows})
        return 0
    output.say(f"studying into {out}")
    result = run_study(told, out, only=only, device=where, progress=output.stage)
    _say_table(output, result)
    for row in result.failures.to_dict("records"):
        output.say(f"  FAILED  {row['arm']}, seed {row['seed']}, at step {row['step']}: {row['message']}")
    output.say(f"studied: {out}; every number is in {out / 'table.csv'}")
    output.answer(summary(result))
    return 0


def _say_table(output: s.Output, result: Any) -> None:
    """Every arm's last length at the most network calls, over seeds."""
    from slowflow.evaluating.evaluation import features_label, label
    from slowflow.reporting.compared import after
    from slowflow.sweep.pooled import over_seeds

    table, features = over_seeds(result), features_label(result.protocol["features"])
    last = table[(table["length"] == table["longest"]) & (table["budget"] == table["budget"].max())]
    for metric, rows in last.groupby("metric", sort=False):
        output.say(
            f"\n{label(metric, features)} at {int(rows['budget'].iloc[0])} steps, after each arm's last length of training"
        )
        for row in rows.to_dict("records"):
            output.say(
                f"  {row['arm']:<28} {row['value']:9.3f} [{row['low']:.3f}, {row['high']:.3f}]  {row['seeds']} seeds"
                f"{after(row)}"
            )


def compare(
    run: Annotated[list[Path], typer.Argument(help="Measurements, evaluations, one whole run, or studies.")],
    against: Annotated[
        str | None, typer.Option("--against", help="The run or arm the others are compared with; the first, or plain.")
    ] = None,
    published: Annotated[
        str | None, typer.Option("--published", help="Model of the published tables to put FID beside.")
    ] = None,
    json: s.Json = False,
    debug: s.Debug = False,
) -> None:
    """Finished runs of one protocol side by side, paired by sample id. Unlike protocols are refused by field."""
    output = s.Output(json, quiet=True)
    from slowflow.comparison import answer
    from slowflow.comparison import compare as run_compare
    from slowflow.published import must_be_known

    must_be_known(published)
    found = run_compare(*run, against=against)
    for line in str(found).splitlines():
        output.say(line)
    for name, one in found.evaluations.items():
        say_published(output, name, one, published)
    output.answer(answer(found))
