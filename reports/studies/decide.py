"""What the studies say of `auto`, written where `suggest` reads it: python reports/studies/decide.py STUDY... [--out FILE]

Studies may still be running. The rule is that of slowflow/sweep/choice.py; nothing is set by hand.
"""

import argparse
from pathlib import Path

import pandas as pd

from slowflow.config import plain_rows
from slowflow.io import atomic
from slowflow.reporting.study_forecast import foretold, score
from slowflow.sweep.choice import choose
from slowflow.sweep.folder import StudyResult

HERE = Path(__file__).resolve().parents[2]
FILE = HERE / "slowflow" / "measuring" / "evidence.json"
BUDGET = 20
"""Step count whose numbers `suggest` says; the rule looks at all of them."""


def decided(studies: list[StudyResult]) -> dict:
    """The content of the file."""
    found = choose(studies)
    said = []
    for name, rows in found.table.groupby("study", sort=False) if len(found.table) else []:
        budget = min(rows["budget"].unique().tolist(), key=lambda n: abs(n - BUDGET))
        first = rows.iloc[0]
        about = {key: int(first[key]) for key in ("seeds", "planned", "gammas", "length")}
        said.append(
            {"name": str(name), **about, "budget": int(budget), "rows": plain_rows(rows[rows["budget"] == budget])}
        )
    tables = [one for study in studies if len(one := foretold(study))]
    foreseen = score(pd.concat(tables, ignore_index=True)) if tables else {}
    return {"method": found.method, "why": found.why, "studies": said, "forecast": foreseen}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=FILE)
    told = parser.parse_args()
    atomic.write_json(told.out, decided([StudyResult.load(path) for path in told.studies]))
    print(f"written: {told.out}")
