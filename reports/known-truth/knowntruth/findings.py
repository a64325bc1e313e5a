"""Markdown tables of the known-truth study: counts of signs, mean effects, and four Frechet distances side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd

from knowntruth.table import METRICS, over, sure

SAID = {"fd": "Frechet distance", "astray": "fidelity (astray)", "frequency": "coverage (frequencies)"}


def markdown(table: pd.DataFrame, title: str) -> str:
    """A titled table."""
    head = "| " + " | ".join(map(str, table.columns)) + " |\n|" + "---|" * len(table.columns)
    body = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False))
    return f"### {title}\n\n{head}\n{body}\n"


def signs(cells: pd.DataFrame, by: list[str], title: str) -> str:
    """How many cells help, hurt, or are inside their interval, for each metric."""
    found = []
    for key, part in cells.groupby(by, sort=True):
        row = dict(zip(by, key, strict=True)) | {"cells": len(part)}
        for metric in METRICS:
            clear = sure(part, metric)
            helps = int((clear & (part[f"{metric}_effect"] < 0)).sum())
            row[SAID[metric]] = f"{helps} / {int(clear.sum()) - helps}"
        found.append(row)
    return markdown(pd.DataFrame(found), f"{title}: help / hurt outside the interval")


def means(cells: pd.DataFrame, rows: list[str], column: str, title: str, metric: str = "fd") -> str:
    """Mean factor of MixFlow over plain, exp of the mean log ratio."""
    wide = np.exp(cells.pivot_table(index=rows, columns=column, values=f"{metric}_effect", aggfunc="mean"))
    wide = wide.round(2).astype(str).replace("nan", "").reset_index()
    wide.columns = [str(c) for c in wide.columns]
    return markdown(wide, f"{title}: {SAID[metric]}, MixFlow / plain, geometric mean")


def four_distances(cells: pd.DataFrame, oracle: pd.DataFrame, gamma: float, solver: str = "heun20") -> str:
    """Genuine samples, exact field, exact optimum, plain network, MixFlow network, per world."""
    ideal = oracle.groupby(["d", "kind", "arm", "solver"], sort=False).fd.mean().unstack("arm").reset_index()
    floor = ideal[ideal.solver == "none"].set_index(["d", "kind"]).data
    ideal = ideal[ideal.solver == solver].set_index(["d", "kind"])
    nets = cells[(cells.solver == solver) & (cells.gamma == gamma) & ~cells.reader & (cells.data == 0)]
    nets = nets[nets.length == nets.groupby(["setting", "base"]).length.transform("max")]
    found = []
    for r in nets.sort_values(["kind", "d", "width", "base"]).itertuples():
        at = (r.d, r.kind)
        if at not in ideal.index:
            continue
        exact, best = ideal.loc[at, "optimum 0"], ideal.loc[at, f"optimum {gamma:g}"]
        found.append(
            {
                "world": f"d {r.d} {r.kind}", "blur": f"{r.blur:.3f}", "network": f"w{r.width} {r.base}",
                "genuine": f"{floor[at]:.2f}", "exact field": f"{exact:.2f}", "exact optimum": f"{best:.2f}",
                "plain": f"{r.fd_control:.2f}", "MixFlow": f"{r.fd:.2f}",
            }
        )  # fmt: skip
    return markdown(pd.DataFrame(found), f"Frechet distances at gamma {gamma:g}, {solver}, longest post-training")


def controls(judged: pd.DataFrame) -> str:
    """What plain training, the Beta(2,1) law and MixFlow do to the Frechet distance of a base, and to each other."""
    found = []
    for arm, control in [
        ("plain", "base"),
        *((g, "base") for g in ("0.1", "0.2", "0.4", "0.8")),
        ("0", "plain"),
        ("0.2", "0"),
        ("0.8", "0"),
    ]:
        one = over(judged, arm, control)
        for base, part in one.groupby("base", sort=False):
            clear = sure(part)
            helps = int((clear & (part.fd_effect < 0)).sum())
            found.append(
                {
                    "arm": arm, "over": {"base": "untouched", "0": "gamma 0"}.get(control, control), "base": base,
                    "cells": len(part), "help / hurt": f"{helps} / {int(clear.sum()) - helps}",
                    "mean factor": f"{np.exp(part.fd_effect.mean()):.2f}",
                }
            )  # fmt: skip
    return markdown(pd.DataFrame(found), "Arms over controls: Frechet distance, all lengths and steps")


def report(judged: pd.DataFrame, cells: pd.DataFrame, oracle: pd.DataFrame) -> str:
    """Every table."""
    plain = cells[~cells.reader & (cells.data == 0)]
    longest = plain[plain.length == plain.groupby(["setting", "base"]).length.transform("max")]
    readers = cells[cells.reader].setting.str.replace("-reader", "").unique()
    pairs = cells[cells.setting.str.replace("-reader", "").isin(readers) & (cells.solver == "euler20")]
    wide = plain.groupby(["d", "kind", "base"]).width.transform("nunique") > 1
    parts = [
        signs(plain, ["gamma"], "By gamma"),
        controls(judged),
        signs(plain, ["kind", "d"], "By world"),
        signs(plain, ["base", "length"], "By base and length"),
        signs(plain, ["solver"], "By steps"),
        signs(plain, ["kind", "base", "gamma"], "By kind, base and gamma"),
        means(longest, ["kind", "base", "gamma"], "solver", "Steps, at the longest post-training"),
        means(plain[plain.solver == "euler20"], ["kind", "d", "base", "length"], "gamma", "Length, Euler 20"),
        means(plain[plain.solver == "euler20"], ["kind", "d", "base", "length"], "gamma", "Length, Euler 20", "astray"),
        means(
            plain[plain.solver == "euler20"], ["kind", "d", "base", "length"], "gamma", "Length, Euler 20", "frequency"
        ),
        means(plain[wide & (plain.solver == "euler20")], ["kind", "d", "base", "width"], "gamma", "Capacity, Euler 20"),
        means(pairs, ["kind", "d", "base", "reader"], "gamma", "Told the norm, Euler 20") if len(pairs) else "",
        four_distances(cells, oracle, 0.2),
        four_distances(cells, oracle, 0.8),
    ]
    return "# Tables of the known-truth study\n\nWritten by `analyse.py`.\n\n" + "\n".join(parts)
