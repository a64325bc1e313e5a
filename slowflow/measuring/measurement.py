"""Measurement: a finished folder of slowed timesteps, read back as tables, curves and a gamma.

One row is one (sample, time). Everything that has an interval gets it from the bootstrap over trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.flow.samplers import sampler
from slowflow.io import checkpoint
from slowflow.io.run import read_manifest, verify
from slowflow.measuring import gamma
from slowflow.measuring.bootstrap import RESAMPLES, interval, mean_curve, weights
from slowflow.records import Estimate, GammaFit

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Measurement:
    """A measurement on disk.

    Args:
        path: the run folder.
        config: what was asked.
        facts: what was found on the way: network calls, backend, bank, agreement of engines.
        files: names of the shards.
    """

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    files: list[str]

    @classmethod
    def load(cls, path: str | Path) -> Measurement:
        """Open a finished measurement; every shard is checked against its hash.

        Raises:
            InputError: not a measurement, unfinished, or a shard is damaged.
        """
        path = Path(path)
        manifest = read_manifest(path, "measure")
        damaged = verify(path)
        if damaged:
            raise InputError(f"{path}: '{damaged[0]}' is missing or damaged (its hash differs); measure again")
        return cls(path, manifest["config"], manifest["result"]["facts"], sorted(manifest["files"]))

    @property
    def references(self) -> list[str]:
        """References that were measured, in the order asked."""
        return list(self.config["probe"]["references"])

    @property
    def steps(self) -> list[int]:
        """Numbers of intervals, the reported one first."""
        return list(self.config["probe"]["steps"])

    @property
    def band_reference(self) -> str:
        """Whose raw fan gives the band: nearest when it was measured, else the first."""
        return "nearest" if "nearest" in self.references else self.references[0]

    @property
    def main_reference(self) -> str:
        """Whose excess gives the verdict: level (a perfect model is at zero there), else nearest, else the first."""
        return "level" if "level" in self.references else self.band_reference

    @cached_property
    def _arrays(self) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """(kind, steps) -> arrays over all its samples, in order of sample id."""
        grouped: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for name in sorted(self.files):
            kind, steps, _ = Path(name).stem.split("-")
            tensors = checkpoint.load(self.path / name).tensors
            grouped.setdefault((kind, int(steps)), []).append({k: v.numpy() for k, v in tensors.items()})
        return {
            key: {k: shards[0][k] if k == "t" else np.concatenate([s[k] for s in shards]) for k in shards[0]}
            for key, shards in grouped.items()
        }

    def kinds(self, steps: int | None = None) -> list[str]:
        """Kinds measured at these steps: model first, then nulls."""
        steps = steps or self.steps[0]
        return [kind for kind in ("model", *self.config["probe"]["nulls"]) if (kind, steps) in self._arrays]

    def array(
        self, what: str, kind: str = "model", *, reference: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """One array: `t` [time], `norm` [n, time], `ids`, `labels`, `final`, `kept`, or a reference's `m`, `residual`, ..."""
        key = (kind, steps or self.steps[0])
        name = f"{reference}/{what}" if reference else what
        if key not in self._arrays or name not in self._arrays[key]:
            raise InputError(f"{self.path} holds no '{name}' of {kind} states at {key[1]} steps")
        return self._arrays[key][name]

    def slack(self, reference: str, steps: int | None = None) -> dict[str, gamma.Slack]:
        """Slack of the model and of every null under one reference."""
        return {
            kind: gamma.Slack(
                m=self.array("m", kind, reference=reference, steps=steps),
                t=self.array("t", kind, steps=steps),
                residual=self.array("residual", kind, reference=reference, steps=steps),
            )
            for kind in self.kinds(steps)
        }

    def records(self) -> pd.DataFrame:
        """Every row: steps, kind, reference, sample_id, label, t, m, residual, norm, boundary, index."""
        frames = []
        for (kind, steps), arrays in self._arrays.items():
            n, times = len(arrays["ids"]), len(arrays["t"])
            shared = {
                "steps": steps,
                "kind": kind,
                "sample_id": np.repeat(arrays["ids"], times),
                "label": np.repeat(arrays["labels"], times),
                "t": np.tile(arrays["t"], n),
                "norm": arrays["norm"].ravel(),
            }
            for reference in self.references:
                own = {k: arrays[f"{reference}/{k}"].ravel() for k in ("m", "residual", "boundary", "index")}
                frames.append(pd.DataFrame({**shared, "reference": reference, **own}))
        return pd.concat(frames, ignore_index=True)

    def summary(self, reference: str | None = None, steps: int | None = None) -> pd.DataFrame:
        """One row a time: t, mean m of the model with interval and quantiles, of each null, and the excess over each.

        excess = m(model) - m(null) at the same t; negative = slow.
        """
        reference, seed = reference or self.main_reference, int(self.config["probe"]["seed"])
        slack = self.slack(reference, steps)
        table = {"t": slack["model"].t}
        resampled = {}
        for kind, one in slack.items():
            # kinds on the same noise share their resamples, so that their difference is a paired one
            purpose = kind if kind in ("genuine", "seen") or len(one.m) != len(slack["model"].m) else "model"
            resampled[kind] = mean_curve(one.m, weights(len(one.m), RESAMPLES, seed, purpose))
            table[f"m_{kind}"] = one.m.mean(axis=0)
            table[f"m_{kind}_low"], table[f"m_{kind}_high"] = interval(resampled[kind])
            for q in QUANTILES:
                table[f"m_{kind}_q{round(100 * q):02d}"] = np.quantile(one.m, q, axis=0)
            if kind != "model":
                table[f"excess_{kind}"] = table["m_model"] - table[f"m_{kind}"]
                low, high = interval(resampled["model"] - resampled[kind])
                table[f"excess_{kind}_low"], table[f"excess_{kind}_high"] = low, high
        table["residual"] = slack["model"].residual.mean(axis=0)
        table["boundary"] = self.array("boundary", reference=reference, steps=steps).mean(axis=0)
        if "genuine" in slack:
            norms = (
                self.array("norm", steps=steps).mean(axis=0),
                self.array("norm", "genuine", steps=steps).mean(axis=0),
            )
            table["norm_ratio"] = norms[0] / norms[1]
        return pd.DataFrame(table)

    def suggest(self, reference: str | None = None, steps: int | None = None) -> GammaFit:
        """gamma by every estimator, the recommended one, and a verdict; at the first number of steps unless told.

        Raises:
            InputError: the reference was not measured.
        """
        if reference is not None and reference not in self.references:
            raise InputError(f"{self.path} was not measured under '{reference}' (it has {', '.join(self.references)})")
        fit = gamma.fit(
            {name: self.slack(name, steps) for name in self.references},
            band_reference=reference or self.band_reference,
            excess_reference=reference or self.main_reference,
            seed=int(self.config["probe"]["seed"]),
        )
        return replace(fit, warnings=(*self._cautions(), *fit.warnings))

    def _cautions(self) -> list[str]:
        """What this protocol does to the meaning of the nulls."""
        found = [self.facts["conventions"]] if self.facts["conventions"] else []
        if self.main_reference != "level":
            found.append(
                f"'level' was not measured; the verdict is read from '{self.main_reference}', where a perfect model is not at zero"
            )
        if self.config["probe"]["guidance"] != 1.0:
            found.append("sampling was guided: its target is not the law of the nulls; read guided minus unguided")
        if sampler(self.config["probe"]["sampler"]).stochastic:
            found.append(
                "sampling was stochastic: only the starting noise is shared, which 'own' and 'nearest' do not know"
            )
        disagree = [n for n, facts in self.facts["search"].items() if facts.get("agreement", 1.0) < 1.0]
        found += [f"the search engines disagree under '{name}'; its m cannot be trusted" for name in disagree]
        return found

    def protocol(self) -> dict[str, Any]:
        """What a number from this measurement depends on."""
        probe = self.config["probe"]
        return {
            "samples": probe["samples"],
            "steps": probe["steps"][0],
            "nfe": self.facts["nfe"][str(probe["steps"][0])],
            "sampler": probe["sampler"],
            "guidance": probe["guidance"],
            "seed": probe["seed"],
            "shift": probe["shift"],
            "interpolant": self.facts["interpolant"],
            "backend": self.facts["backend"],
            "device": self.facts["device"],
            "dtype": self.facts["dtype"],
            "bank": self.facts["bank"],
            "heldout": self.facts["heldout"],
            "data": self.config["data"]["name"],
            "model": self.config["model"],
            "intervals": f"95 %, {RESAMPLES} bootstrap resamples of trajectories",
        }

    def result(self) -> dict[str, Any]:
        """The machine-readable answer of `slowflow measure --json`."""
        fit = self.suggest()
        return {
            "references": {name: self._curves(name) for name in self.references},
            "gamma": canonical(fit),
            "verdict": fit.verdict,
            "nfe": self.facts["nfe"],
            "protocol": self.protocol(),
            "search": self.facts["search"],
            "by_steps": {str(steps): canonical(self.suggest(steps=steps)) for steps in self.steps},
        }

    def __str__(self) -> str:
        fit = self.suggest()
        return (
            f"Measurement of '{self.config['model']['name']}' in {self.path}: {self.config['probe']['samples']} samples, "
            f"{self.steps} steps, {', '.join(self.references)}; {fit.verdict}, gamma {fit.gamma:.3f}"
        )

    def _curves(self, reference: str) -> dict[str, Any]:
        table = self.summary(reference)
        n = len(self.array("ids"))

        def curve(name: str, count: int = n) -> list[dict[str, Any]]:
            rows = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            return [canonical(Estimate(float(v), float(low), float(high), count)) for v, low, high in rows]

        out: dict[str, Any] = {"t": table["t"].tolist(), "m": curve("m_model"), "null": None, "excess": None}
        if "genuine" in self.kinds():
            count = len(self.array("ids", "genuine"))
            out |= {"null": curve("m_genuine", count), "excess": curve("excess_genuine", min(n, count))}
        if "exact" in self.kinds():
            out |= {"exact": curve("m_exact"), "excess_over_exact": curve("excess_exact")}
        out |= {"residual": table["residual"].tolist(), "boundary": table["boundary"].tolist()}
        return out
