"""The parts of a page about studies: what is there and what is missing, remedies, lag, forecasts, memorisation.

Every part is plain data, so that HTML and Markdown say the same. A study may still be running: a part shows what is finished
and names what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from slowflow.evaluating.evaluation import features_label, label
from slowflow.reporting import text
from slowflow.reporting.study_forecast import foretold, score
from slowflow.reporting.study_ingredients import ingredients
from slowflow.reporting.study_parts import DIGITS, Part, Table, estimate, name, starred
from slowflow.reporting.study_regret import automatic, paper, regrets
from slowflow.sweep.folder import BASE, CONTROL, StudyResult
from slowflow.sweep.pooled import at_longest, differences, lags_over_seeds, over_seeds

SHOWN = ("fd", "density", "coverage", "agreement")
READINGS = {"level": "excess", "signal clock": "signal", "noise clock": "noise"}


def parts(studies: Sequence[StudyResult]) -> list[Part]:
    """Every part, in reading order."""
    found = [
        progress(studies),
        paper(studies),
        regrets(studies),
        automatic(studies),
        ingredients(studies),
        remedies(studies),
        lags(studies),
        forecasts(studies),
        memorised(studies),
    ]
    return [replace(part, tables=[one.said_once() for one in part.tables]) for part in found]


def progress(studies: Sequence[StudyResult]) -> Part:
    """How much of each study is finished, and what is not."""
    rows, said = [], []
    for study in studies:
        plan = study.plan
        done = {(c["arm"], int(c["seed"])) for c in study.cells}
        gone = [cell for cell in plan if cell not in done]
        lengths = ", ".join(f"{n:,}" for n in study.protocol["lengths"])
        steps, samples = study.protocol["sampling"]["steps"], study.protocol["sampling"]["samples"]
        seeds = len(study.protocol["seeds"])
        rows.append(
            [name(study), study.protocol["data"], study.protocol["features"], lengths, ", ".join(map(str, steps)),
             str(samples), str(seeds), f"{len(done)} of {max(len(plan), len(done))}"]
        )  # fmt: skip
        if gone:
            left: dict[str, list[str]] = {}
            for arm, seed in gone:
                left.setdefault(arm, []).append(str(seed))
            listed = "; ".join(f"{arm} (seed {', '.join(missed)})" for arm, missed in left.items())
            said.append(f"{name(study)} is not finished: {len(gone)} cells are missing: {listed}.")
        said += [
            f"{name(study)}: {row['arm']}, seed {row['seed']}, failed at step {row['step']}: {row['message']}."
            for row in study.failures.to_dict("records")
        ]
        single = [arm for arm in study.arms if len({s for a, s in done if a == arm}) == 1]
        if single:
            said.append(
                f"{name(study)}: under one seed only, so that its interval knows nothing of training: {', '.join(single)}."
            )
    heads = ["study", "data", "features", "lengths", "sampling steps", "n", "seeds", "cells finished"]
    return Part("progress", "What was run, and what is missing", said, [Table(heads, rows)])


def remedies(studies: Sequence[StudyResult]) -> Part:
    """Every arm against its control at equal network calls of sampling: distance, fidelity, coverage, agreement."""
    rows = []
    for study in studies:
        for control in (CONTROL, BASE):
            if control not in study.arms:
                continue
            table = differences(study, control)
            trained = table["length"] > 0
            mine = table[trained] if control == CONTROL else table[~trained | (table["arm"] == CONTROL)]
            rows += _against(study, at_longest(mine), control)
    heads = ["study", "arm", "control", "length", "calls a sample", "training calls", *_titles(SHOWN), "seeds"]
    said = [
        "Trained arms stand against plain post-training of the same length, arms that only change sampling against the base, at "
        "no more network calls than the study's sampler. Distance: lower is better. Density is fidelity, coverage the share "
        "of real images with a sample near by, agreement the share of samples that a classifier takes for their class: higher "
        "is better. A star: the interval excludes zero.",
    ]
    return Part("remedies", "Every remedy against its control", said, [Table(heads, rows)] if rows else [])


def _against(study: StudyResult, table: pd.DataFrame, control: str) -> list[list[str]]:
    rows = []
    batch = study.protocol.get("train", {}).get("batch_size", 0)
    # studies of the first version did not count the calls that a remedy makes in training
    calls = {
        c["arm"]: sum((c["train"].get("network_calls") or {"trained": c["train"]["steps"] * batch}).values())
        for c in study.cells
        if c["train"]
    }
    for _, group in table.groupby(["arm", "length", "nfe"], sort=False):
        arm, length, nfe = str(group["arm"].iloc[0]), int(group["length"].iloc[0]), int(group["nfe"].iloc[0])
        found = group.set_index("metric").to_dict("index")
        cells = [starred(found[m], DIGITS.get(str(m), 3)) if m in found else "–" for m in SHOWN]
        spent = f"{calls[arm]:,}" if arm in calls else "0"
        rows.append([name(study), arm, control, f"{length:,}", str(nfe), spent, *cells, str(group["seeds"].iloc[0])])
    return rows


def lags(studies: Sequence[StudyResult]) -> Part:
    """Excess before and after, by every reading, with the paired change."""
    rows = []
    for study in studies:
        table = lags_over_seeds(study)
        for arm in table["arm"].unique():
            mine = table[table["arm"] == arm]
            cells = []
            for reading, prefix in READINGS.items():
                after = mine[(mine["kind"] == "excess") & (mine["reading"] == f"{prefix}_exact")].to_dict("records")
                moved = mine[(mine["kind"] == "change") & (mine["reading"] == reading)].to_dict("records")
                cells += [text.signed(estimate(after[0]), 3) if after else "–"]
                cells += [starred(moved[0], 3) if moved else "–"]
            length = int(mine["length"].iloc[0])
            rows.append([name(study), str(arm), f"{length:,}", *cells, str(int(mine["seeds"].max()))])
    heads = ["study", "arm", "length"]
    heads += [f"{reading}{what}" for reading in READINGS for what in (", excess", ", change")] + ["seeds"]
    said = [
        "In units of gamma, right of zero = slow. The excess is above a perfect model on the same noise; the change against the "
        "base, paired by sample id. An arm stands at its own last length. An arm that improves the distance and does not "
        "shrink the lag improves it for another reason."
    ]
    return Part("lag", "The lag before and after", said, [Table(heads, rows)] if rows else [])


def forecasts(studies: Sequence[StudyResult]) -> Part:
    """Does the sign foretold from the measurement alone hold on these models?"""
    tables = [found for study in studies if len(found := foretold(study))]
    if not tables:
        return Part("forecast", "Is MixFlow's effect foretold?", ["No study here has what a forecast needs yet."])
    rows = []
    for table in tables:
        got = score(table)
        rows.append(
            [str(table["study"].iloc[0]), str(len(table)), str(got["cells"]), str(got["right"]), got["commoner"],
             str(got["constant"]), str(got["declined"])]
        )  # fmt: skip
    heads = [
        "study",
        "settings",
        "clear effects",
        "formula right",
        "commoner sign",
        "right by always saying it",
        "declined",
    ]
    said = [
        "The formula of the known-truth study (lag, blur of the noise level, gamma, length) against the sign of MixFlow's "
        "effect on the distance. 'Declined' are settings outside the ranges that formed it, where `suggest` gives no forecast."
    ]
    return Part("forecast", "Is MixFlow's effect foretold?", said, [Table(heads, rows)])


def memorised(studies: Sequence[StudyResult]) -> Part:
    """How near samples come to training images, against held-out images."""
    rows = []
    for study in studies:
        by_arm: dict[tuple[str, str], list[dict[str, float]]] = {}
        for cell in study.cells:
            if cell["memorisation"]:
                last = max(cell["memorisation"], key=int)
                by_arm.setdefault((cell["arm"], last), []).append(cell["memorisation"][last])
        for (arm, length), found in by_arm.items():
            steps = sorted(found[0], key=int)
            cells = ["/".join((f"{min(v):.2f}", f"{max(v):.2f}")) if len(set(v)) > 1 else f"{v[0]:.2f}"
                     for v in ([one[s] for one in found] for s in steps)]  # fmt: skip
            rows.append([name(study), arm, f"{int(length):,}", ", ".join(steps), ", ".join(cells), str(len(found))])
    heads = ["study", "arm", "length", "at steps", "ratio (least/most over seeds)", "seeds"]
    said = [
        "Distance of samples to the nearest training image over that of held-out images. Below 1 samples lie nearer to training "
        "images than real new images do, which a copy would; a gain in distance with a ratio far below 1 is no gain."
    ]
    return Part("memorisation", "Memorisation", said, [Table(heads, rows)] if rows else [])


def numbers(studies: Sequence[StudyResult]) -> Table:
    """Every number over seeds: the appendix."""
    rows = []
    for study in studies:
        features = features_label(study.protocol["features"])
        for row in over_seeds(study).to_dict("records"):
            digits = DIGITS.get(row["metric"], 3)
            rows.append(
                [name(study), row["arm"], f"{int(row['length']):,}", str(row["nfe"]), label(row["metric"], features),
                 text.plain(estimate(row), digits), str(row["seeds"])]
            )  # fmt: skip
    return Table(["study", "arm", "length", "calls a sample", "metric", "value [95 % interval]", "seeds"], rows)


def _titles(metrics: Iterable[str]) -> list[str]:
    return [metric.replace("fd", "FD") for metric in metrics]
