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
    threads: s.Threads = 0,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> int:
    """Run every arm of a study: the same seeds, averages, network calls and n for all of them."""
    output = s.Output(json, quiet)
    s.setup(threads)
    from slowflow.study.config import read_study
    from slowflow.study.engine import planned, run_study, summary

    told = read_study(config)
    if dry_run:
        rows = planned(told)
        for row in rows:
            output.say(f"  {row['arm']:<32} seed {row['seed']}  {row['calls']:>14,} network calls")
        output.say(f"  {len(rows)} cells, {sum(row['calls'] for row in rows):,} network calls")
        output.answer({"plan": rows})
        return 0
    output.say(f"studying into {out}")
    result = run_study(told, out, only=only, progress=output.stage)
    _say_table(output, result)
    for row in result.failures.to_dict("records"):
        output.say(f"  FAILED  {row['arm']}, seed {row['seed']}, at step {row['step']}: {row['message']}")
    output.say(f"studied: {out}; every number is in {out / 'table.csv'}")
    output.answer(summary(result))
    return 0


def _say_table(output: s.Output, result: Any) -> None:
    """Every arm's last length at the most network calls, over seeds."""
    from slowflow.evaluating.evaluation import features_label, label
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
                f"{_after(row)}"
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
    table = found.differences
    shown = table[table["length"] == table.groupby("arm")["length"].transform("max")] if "length" in table else table
    for (other, metric), group in shown.groupby(["against", "metric"], sort=False):
        _say_differences(output, found.labels.get(metric, metric), other, metric, group)
    output.say("\nbetter, worse, slower, faster: 95 % interval clear of zero; one in 20 by chance")
    for name, one in found.evaluations.items():
        say_published(output, name, one, published)
    _say_regret(output, found.regret, found.labels.get("fd", "FD"))
    output.answer(answer(found))


def _say_differences(output: s.Output, name: str, other: str, metric: str, table: Any) -> None:
    """One metric of one or several arms, minus that of another: a block for all step counts, or one each for many arms."""
    alone = table["arm"].nunique() == 1
    name = name.replace("lag (", "lag in units of gamma (")
    for steps, rows in [(None, table)] if alone else table.groupby(_steps(table), sort=False):
        where = f" at {steps} steps" if steps is not None else f" of {table['arm'].iloc[0]}"
        output.say(f"\n{name}{where}, minus that of {other}")
        for row in rows.to_dict("records"):
            of = f"{row[_steps(table)]:>5} steps" if alone else f"{row['arm']:<28}"
            value = f"{row['value']:+9.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            output.say(f"  {of} {value}{_after(row)}{_word(metric, row)}")


def _word(metric: str, row: dict[str, Any]) -> str:
    """What a difference clear of zero means; nothing for one that is not clear."""
    from slowflow.records import Estimate
    from slowflow.reporting.text import change_word

    found = Estimate(row["value"], row["low"], row["high"], row["n"])
    if not found.excludes(0.0):
        return ""
    if metric.startswith("lag"):
        return "  slower" if found.value > 0 else "  faster"
    return f"  {change_word(metric, found)}"


def _say_regret(output: s.Output, table: Any, name: str) -> None:
    """What a suggested gamma costs against the best of the sweep, after the longest training."""
    if table is None:
        return
    last = table[(table["length"] == table["length"].max()) & (table["metric"] == "fd")]
    for steps, rows in last.groupby("budget"):
        output.say(f"\nregret in {name} at {steps} steps (best of the sweep: gamma {rows['best'].iloc[0]:g})")
        for row in rows.to_dict("records"):
            word = "within the sweep's noise" if row["within_noise"] else "more than the sweep's noise"
            output.say(
                f"  {row['method']:<10} gamma {row['gamma']:.3f}  {row['value']:+8.3f} "
                f"[{row['low']:+.3f}, {row['high']:+.3f}]  {word}"
            )


def _after(row: dict[str, Any]) -> str:
    """The length of training behind a number; nothing for an arm without one."""
    return f"  after {row['length']:,} steps" if row.get("length") else ""


def _steps(table: Any) -> str:
    return "budget" if "budget" in table else "steps"
