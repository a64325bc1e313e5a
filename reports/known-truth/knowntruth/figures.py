"""Figures of the known-truth study, in the look of the library's own (colour-blind-safe; every point says n and interval)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from knowntruth.table import sure
from slowflow.figures.style import BLUE, GREY, INK, ORANGE, STYLE

mpl.use("Agg")
import matplotlib.pyplot as plt

KINDS = ("manifold", "mid", "white")
KIND_SAID = {"manifold": "idle spread 0.2", "mid": "idle spread 0.5", "white": "idle spread 1"}
SMALL_NETWORK = 32


def save(figure: Figure, path: Path) -> None:
    """Write and close."""
    figure.savefig(path, dpi=150)
    plt.close(figure)


def ordinary(table: pd.DataFrame) -> pd.DataFrame:
    """Small ordinary networks on fresh data."""
    return table[~table.reader & (table.data == 0) & (table.width == SMALL_NETWORK)]


def colours(gammas: Sequence[float]) -> dict[float, tuple[float, float, float]]:
    """One of viridis for each gamma, dark for large."""
    return dict(zip(gammas, sns.color_palette("viridis_r", len(gammas)), strict=True))


def plainly(axis: Axes, x: bool = True, y: bool = False) -> None:
    """Numbers on logarithmic axes as numbers, not as powers."""
    for wanted, one in ((x, axis.xaxis), (y, axis.yaxis)):
        if wanted:
            one.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            one.set_minor_formatter(NullFormatter())


def percent(axis: Axes) -> None:
    """A log-ratio axis labelled in factors."""
    ticks = [0.25, 0.5, 0.71, 1, 1.41, 2, 4, 8, 16]
    low, high = axis.get_ylim()
    shown = [x for x in ticks if low <= np.log(x) <= high]
    axis.set_yticks(np.log(shown), [f"×{x:g}" for x in shown])


def effect_by_length(table: pd.DataFrame, path: Path, metric: str = "fd", name: str = "Frechet distance") -> None:
    """Effect against the length of post-training: a panel a world, a line a gamma and base."""
    seen = ordinary(table)
    seen = seen[(seen.solver == "euler20") & seen.base.isin(["short", "long", "converged"])]
    kinds, dims = [k for k in KINDS if k in set(seen.kind)], sorted(seen.d.unique())
    shades = colours(sorted(seen.gamma.unique()))
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(kinds), len(dims), figsize=(3.1 * len(dims) + 1, 2.5 * len(kinds) + 0.9), sharex=True, sharey=True,
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for row, kind in enumerate(kinds):
            for column, d in enumerate(dims):
                axis = panels[row, column]
                axis.axhline(0, color=GREY, lw=1)
                axis.set_xscale("log")
                plainly(axis)
                axis.set_title(f"d = {d}, {KIND_SAID[kind]}", fontsize=10)
                one = seen[(seen.kind == kind) & (seen.d == d)]
                for (gamma, base), line in one.groupby(["gamma", "base"]):
                    style = {"short": ":", "long": "-", "converged": "--"}[base]
                    axis.plot(line.ratio, line[f"{metric}_effect"], style, color=shades[gamma], lw=1.4)
                    clear = line[sure(line, metric)]
                    axis.plot(clear.ratio, clear[f"{metric}_effect"], "o", color=shades[gamma], ms=4)
                if not len(one):
                    axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=GREY)
        percent(panels[0, 0])
        figure.supylabel(f"{name}: MixFlow over plain", fontsize=11)
        for axis in panels[-1]:
            axis.set_xlabel("post-training / pretraining")
        handles = [mpl.lines.Line2D([], [], color=c, label=f"γ = {g:g}") for g, c in shades.items()]
        styles = [("short pretraining (300)", ":"), ("long (3,000)", "-"), ("converged (12,000)", "--")]
        handles += [mpl.lines.Line2D([], [], color=INK, ls=s, label=n) for n, s in styles]
        handles.append(mpl.lines.Line2D([], [], color=INK, ls="", marker="o", ms=4, label="outside its interval"))
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
        save(figure, path)


def fidelity_and_coverage(table: pd.DataFrame, path: Path) -> None:
    """Each cell at its longest post-training, 20 steps: effect on fidelity against effect on coverage and on the whole."""
    seen = ordinary(table)
    seen = seen[(seen.solver == "euler20") & (seen.length == seen.groupby(["setting", "base"]).length.transform("max"))]
    shades = colours(sorted(seen.gamma.unique()))
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
        for axis, metric, name in zip(
            panels, ("frequency", "fd"), ("component frequencies (coverage)", "Frechet distance"), strict=True
        ):
            sns.scatterplot(
                seen, x="astray_effect", y=f"{metric}_effect", hue="gamma", style="kind", palette=shades, s=45, ax=axis,
                legend=axis is panels[1],
            )  # fmt: skip
            axis.axhline(0, color=GREY, lw=1)
            axis.axvline(0, color=GREY, lw=1)
            axis.set(
                xlabel="samples astray, log MixFlow / plain   (left: cleaner)", ylabel=f"{name}\nlog MixFlow / plain"
            )
        panels[0].set_title("Fidelity against coverage")
        panels[1].set_title("Fidelity against all of it")
        sns.move_legend(panels[1], "center left", bbox_to_anchor=(1, 0.5))
        save(figure, path)


def learning_to_read(judged: pd.DataFrame, ideal: dict[int, dict[float, float]], path: Path) -> None:
    """Share of the level read off the state, and distance to MixFlow's optimum on own states, along post-training."""
    seen = ordinary(judged[(judged.solver == "probe") & (judged.kind == "manifold")])
    seen = seen[(seen.base == "long") & seen.arm.isin(["base", "plain", "0.2", "0.4", "0.8"])]
    arms = [("plain", BLUE), ("0.2", "#9aa33b"), ("0.4", "#7d7c78"), ("0.8", ORANGE)]
    dims = sorted(seen.d.unique())
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            2,
            len(dims),
            figsize=(3 * len(dims) + 1, 5.6),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for column, d in enumerate(dims):
            own = seen[seen.d == d]
            for (arm, colour), row in [(a, r) for a in arms for r in (0, 1)]:
                line = own[own.arm == arm].groupby("length")
                value = line.read.mean() if row == 0 else (line.own_optimum.mean() / d) ** 0.5
                label = "plain" if arm == "plain" else f"γ = {arm}"
                panels[row, column].plot(value.index, value, "-o", ms=4, color=colour, label=label)
            panels[0, column].set_title(f"d = {d}", fontsize=10)
            for gamma, colour in ((0.2, arms[1][1]), (0.4, arms[2][1]), (0.8, arms[3][1])):
                panels[0, column].axhline(ideal[d][gamma], color=colour, lw=1.2, ls="--")
            panels[1, column].set(xscale="log", yscale="log", xlabel="steps of post-training")
            plainly(panels[1, column], y=True)
            panels[1, column].set_yticks([0.1, 0.2, 0.3, 0.4, 0.5])
        panels[0, 0].set_ylabel("level read off the state\n(dashed: the exact optimum)")
        panels[1, 0].set_ylabel("distance to its optimum\non own states, per axis")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        save(figure, path)


def oracle_and_networks(oracle: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """What the exact optimum loses against v*, beside what networks lose: by how well a state tells its level."""
    blur = table.drop_duplicates(["d", "kind"]).set_index(["d", "kind"]).blur
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.4), sharex=True, sharey=True, layout="constrained")
        for axis, gamma in zip(panels, (0.2, 0.8), strict=True):
            fine = oracle[oracle.solver == "heun20"].set_index(["d", "kind", "seed"])
            ideal = np.log(fine[fine.arm == f"optimum {gamma:g}"].fd / fine[fine.arm == "optimum 0"].fd)
            by = ideal.groupby(["d", "kind"]).mean().to_frame("effect").join(blur, how="inner")
            axis.plot(by.blur, by.effect, "s", color=BLUE, ms=7, label="exact optimum over exact field")
            nets = ordinary(table)
            nets = nets[(nets.solver == "heun20") & (nets.gamma == gamma) & (nets.length == 3000)]
            for base, marker in (("short", "v"), ("long", "^")):
                one = nets[nets.base == base]
                axis.errorbar(
                    one.blur, one.fd_effect, one.fd_half.clip(upper=3), fmt=marker, color=ORANGE, ms=6, lw=1,
                    mfc="white" if base == "short" else ORANGE, label=f"network over plain, {base} pretraining",
                )  # fmt: skip
            axis.axhline(0, color=GREY, lw=1)
            axis.set_title(f"γ = {gamma}, fine steps")
            axis.set(xscale="log", xlabel="blur: scatter of the level read off one state, relative to t")
            axis.set_xticks([0.02, 0.05, 0.1, 0.2, 0.4])
            plainly(axis)
        panels[0].set_ylabel("log ratio of Frechet distances\n(above 0: MixFlow loses)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        save(figure, path)


def foretold(scores: pd.DataFrame, path: Path) -> None:
    """Share of signs foretold right, beside always saying the commoner sign; the finest groups are left to the table."""
    shown = scores[~scores.group.str.contains("γ|left out|exact density")]
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9.2, 0.36 * len(shown) + 1.4), layout="constrained")
        y = np.arange(len(shown))
        axis.barh(y - 0.2, shown.right, 0.38, color=ORANGE, label="forecast")
        axis.barh(y + 0.2, shown.constant, 0.38, color=GREY, label="always the commoner sign of the group")
        axis.hlines(y - 0.2, shown.low, shown.high, color=INK, lw=1.2)
        axis.axvline(0.9, color=INK, lw=1, ls="--")
        axis.set_yticks(y, [f"{r.group}  (n = {r.n}, helps {r.helps})" for r in shown.itertuples()])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set(
            xlim=(0, 1), xlabel="share of signs foretold right, 95 % over bases", title="Sign foretold before training"
        )
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        save(figure, path)
