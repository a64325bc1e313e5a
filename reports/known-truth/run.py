"""Run the known-truth study: PYTHONPATH=. OMP_NUM_THREADS=1 python reports/known-truth/run.py --out DIR."""

from __future__ import annotations

import argparse
import logging
import tomllib
from pathlib import Path
from typing import Any

import torch
from knowntruth.study import Plan, Setting, oracle, run

HERE = Path(__file__).resolve().parent


def read(path: Path) -> tuple[Plan, list[Setting]]:
    """The plan and the settings of a config, in order."""
    config: dict[str, Any] = tomllib.loads(path.read_text())

    def fixed(table: dict[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}

    settings = [Setting(**{**fixed(one), "idle": config["idle"][one["kind"]]}) for one in config["setting"]]
    return Plan(**fixed(config["plan"])), settings


def main() -> None:
    """Every setting, then the oracle of its world."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder; what is in it is not done again")
    options.add_argument("--config", type=Path, default=HERE / "config.toml")
    options.add_argument("--part", default="0/1", help="k/n: every n-th setting from the k-th, for two processes")
    given = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    plan, settings = read(given.config)
    k, n = map(int, given.part.split("/"))
    for setting in settings[k::n]:
        run(setting, plan, given.out)
        oracle(setting, plan, given.out)


if __name__ == "__main__":
    main()
