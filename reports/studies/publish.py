"""Write what the studies have found into this folder: python reports/studies/publish.py STUDY...

    results.md           the page of `slowflow report`, without its pictures
    tables/NAME.csv      every number of every cell, NAME-lags.csv every lag
    figures/NAME-*.png   every figure that there is data for

Studies may still be running; the page names what is missing. `decide.py` writes what `suggest` reads.
"""

import argparse
from pathlib import Path

from slowflow.errors import InputError
from slowflow.figures import FIGURES
from slowflow.figures.base import rendered
from slowflow.io import atomic
from slowflow.reporting.study_page import FIGURES as SHOWN
from slowflow.reporting.study_page import studies_markdown
from slowflow.results import RunResult
from slowflow.sweep.folder import StudyResult

HERE = Path(__file__).resolve().parent


def published(studies: list[StudyResult], out: Path) -> list[Path]:
    """Everything that was written."""
    made = [out / "results.md"]
    atomic.write_text(made[0], studies_markdown(studies))
    for study in studies:
        name = str(study.protocol["name"])
        for stem, table in ((name, study.rows), (f"{name}-lags", study.lags)):
            made.append(out / "tables" / f"{stem}.csv")
            made[-1].parent.mkdir(exist_ok=True)
            atomic.write_text(made[-1], table.to_csv(index=False, float_format="%.6g"))
        result = RunResult(study.path, [], {}, {}, study=study)
        for stem in SHOWN:
            try:
                table = FIGURES.get(stem).data(result)
            except InputError:
                continue  # nothing of it is finished yet
            made.append(out / "figures" / f"{name}-{stem.removeprefix('study-')}.png")
            made[-1].parent.mkdir(exist_ok=True)
            atomic.write_bytes(made[-1], rendered(FIGURES.get(stem), table, "png"))
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    told = parser.parse_args()
    for file in published([StudyResult.load(path) for path in told.studies], told.out):
        print(file)
