"""Measurement: a finished folder of slowed timesteps, read back as tables, curves and a gamma.

One row is one (sample, time). Everything that has an interval gets it from the bootstrap over trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from slowflow.data.images import ImageSet
from slowflow.data.open import open_data
from slowflow.errors import InputError
from slowflow.families.base import OpenOptions
from slowflow.families.open import open_model
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import FlowModel
from slowflow.flow.table import recorded
from slowflow.io import checkpoint
from slowflow.io.run import whole_manifest
from slowflow.measuring import forecast, gamma
from slowflow.measuring.answer import answer
from slowflow.measuring.bootstrap import RESAMPLES, interval, weights
from slowflow.measuring.cautions import cautions
from slowflow.measuring.peers import MEASURES
from slowflow.measuring.recommending import recommend
from slowflow.measuring.references import REFERENCES, Reference, Start
from slowflow.measuring.shards import parsed
from slowflow.measuring.slack import Reading, Slack, everyone
from slowflow.records import GammaFit

if TYPE_CHECKING:
    from slowflow.measuring.causes.diagnosis import Diagnosis

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
        manifest = whole_manifest(path, "measure")
        return cls(path, manifest["config"], manifest["result"]["facts"], sorted(manifest["files"]))

    @cached_property
    def path_of_states(self) -> Interpolant:
        """The interpolant."""
        return recorded(self.facts["interpolant"], self.facts.get("levels"))

    @property
    def references(self) -> list[str]:
        """References that were measured, in the order asked."""
        return list(self.config["probe"]["references"])

    @property
    def steps(self) -> list[int]:
        """Numbers of intervals, the reported one first."""
        return list(self.config["probe"]["steps"])

    @property
    def measures(self) -> list[str]:
        """Peers' measures that were taken."""
        return list(self.config["probe"]["measures"])

    @property
    def singles(self) -> list[str]:
        """References that give every state an m."""
        return [name for name in self.references if isinstance(REFERENCES.get(name), Reference)]

    @property
    def band_reference(self) -> str:
        """Whose raw fan gives the band: nearest when it was measured, else the first that reads single states."""
        return "nearest" if "nearest" in self.references else self.singles[0]

    @property
    def main_reference(self) -> str:
        """Whose excess is the main one: level (a perfect model is at zero there), else that of the band."""
        return "level" if "level" in self.references else self.band_reference

    @cached_property
    def _arrays(self) -> dict[tuple[str, Start, int], dict[str, np.ndarray]]:
        """(kind, start, steps) -> arrays over all its samples, in order of sample id."""
        grouped: dict[tuple[str, Any, int], list[dict[str, Any]]] = {}
        for name in sorted(self.files):
            tensors = checkpoint.load(self.path / name).tensors
            grouped.setdefault(parsed(name), []).append({k: v.numpy() for k, v in tensors.items()})
        return {
            key: {k: shards[0][k] if k == "t" else np.concatenate([s[k] for s in shards]) for k in shards[0]}
            for key, shards in grouped.items()
        }

    def kinds(self, steps: int | None = None, start: Start = "noise") -> list[str]:
        """Kinds measured at these steps: model first, then nulls."""
        steps = steps or self.steps[0]
        wanted = ("model", *self.config["probe"]["nulls"])
        return [kind for kind in wanted if (kind, self._start(kind, start), steps) in self._arrays]

    @staticmethod
    def _start(kind: str, start: Start) -> Start:
        """Interpolations of real images begin nowhere: they serve every start."""
        return "noise" if kind in ("genuine", "seen") else start

    def array(
        self,
        what: str,
        kind: str = "model",
        *,
        reference: str | None = None,
        steps: int | None = None,
        start: Start = "noise",
    ) -> np.ndarray:
        """One array: `t` [time], `norm` [n, time], `ids`, `labels`, `final`, `kept`, or a reference's `m`, `residual`, ..."""
        start = REFERENCES.get(reference).start if reference else start
        key = (kind, self._start(kind, start), steps or self.steps[0])
        name = f"{reference}/{what}" if reference else what
        if key not in self._arrays or name not in self._arrays[key]:
            raise InputError(f"{self.path} holds no '{name}' of {kind} states at {key[2]} steps")
        return self._arrays[key][name]

    def readings(self, steps: int | None = None) -> dict[str, dict[str, Reading]]:
        """reading -> kind -> how far its states lag; `clocks` gives two readings, other references one."""
        found: dict[str, dict[str, Reading]] = {}
        for name in self.references:
            if name in self.singles:
                found[name] = dict(self.slack(name, steps))
                continue
            reference = REFERENCES.get(name)
            assert not isinstance(reference, Reference)
            path = self.path_of_states
            for kind in self.kinds(steps, reference.start):
                arrays = self._arrays[kind, self._start(kind, reference.start), steps or self.steps[0]]
                own = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
                for clock, reading in reference.clocks(own, arrays["t"], path).items():
                    found.setdefault(clock, {})[kind] = reading
        return found

    def slack(self, reference: str, steps: int | None = None) -> dict[str, Slack]:
        """Slack of the model and of every null under one reference that reads single states, at its times."""
        start = REFERENCES.get(reference).start
        t = self.array("t", steps=steps, start=start)
        found = {}
        for kind in self.kinds(steps, start):
            # late trajectories begin inside the grid; genuine states have all of its times
            own = self.array("t", kind, steps=steps, start=start)
            same = np.flatnonzero(np.isclose(own[:, None], t[None, :], rtol=0, atol=1e-9).any(axis=1))
            m, residual = (
                self.array(what, kind, reference=reference, steps=steps)[:, same] for what in ("m", "residual")
            )
            found[kind] = Slack(m=m, t=t, residual=residual)
        return found

    def records(self) -> pd.DataFrame:
        """Every row: steps, kind, reference, sample_id, label, t, m, residual, norm, boundary, index."""
        frames = []
        for (kind, start, steps), arrays in self._arrays.items():
            n, times = len(arrays["ids"]), len(arrays["t"])
            shared = {
                "steps": steps,
                "kind": kind,
                "sample_id": np.repeat(arrays["ids"], times),
                "label": np.repeat(arrays["labels"], times),
                "t": np.tile(arrays["t"], n),
                "norm": arrays["norm"].ravel(),
            }
            for reference in self.singles:
                if self._start(kind, REFERENCES.get(reference).start) == start:
                    own = {k: arrays[f"{reference}/{k}"].ravel() for k in ("m", "residual", "boundary", "index")}
                    frames.append(pd.DataFrame({**shared, "reference": reference, **own}))
        return pd.concat(frames, ignore_index=True)

    def summary(self, reference: str | None = None, steps: int | None = None) -> pd.DataFrame:
        """One row a time: t, mean m of the model with interval and quantiles, of each null, and the excess over each.

        excess = m(model) - m(null) at the same t; negative = slow. A clock (`signal clock`, `noise clock`) has no
        quantiles and no residual: single states have no m there.

        Raises:
            InputError: the reference or clock was not measured.
        """
        name, seed = reference or self.main_reference, int(self.config["probe"]["seed"])
        readings = self.readings(steps)
        if name not in readings:
            raise InputError(f"{self.path} holds no reading '{name}' (it has {', '.join(readings)})")
        kinds = readings[name]
        t = kinds["model"].t
        columns: dict[str, np.ndarray] = {"t": t}
        point, resampled = {}, {}
        for kind, one in kinds.items():
            # kinds on the same noise share their resamples, so that their difference is a paired one
            purpose = kind if kind in ("genuine", "seen") or len(one) != len(kinds["model"]) else "model"
            point[kind] = t * (1.0 - one.mean_slack(everyone(one))[0])
            resampled[kind] = t * (1.0 - one.mean_slack(weights(len(one), RESAMPLES, seed, purpose, np.uint16)))
            columns[f"m_{kind}"] = point[kind]
            columns[f"m_{kind}_low"], columns[f"m_{kind}_high"] = interval(resampled[kind])
            if isinstance(one, Slack):
                for q in QUANTILES:
                    columns[f"m_{kind}_q{round(100 * q):02d}"] = np.quantile(one.m, q, axis=0)
            if kind != "model":
                columns[f"excess_{kind}"] = point["model"] - point[kind]
                low, high = interval(resampled["model"] - resampled[kind])
                columns[f"excess_{kind}_low"], columns[f"excess_{kind}_high"] = low, high
        return pd.DataFrame({**columns, **self._beside(name, kinds, steps)})

    def _beside(self, name: str, kinds: dict[str, Reading], steps: int | None) -> dict[str, np.ndarray]:
        """Residual, boundary and norm ratio of a reference that reads single states."""
        model = kinds["model"]
        if not isinstance(model, Slack):
            return {}
        found = {
            "residual": model.residual.mean(axis=0),
            "boundary": self.array("boundary", reference=name, steps=steps).mean(axis=0),
        }
        if "genuine" in kinds and REFERENCES.get(name).start == "noise":
            ours, theirs = (self.array("norm", kind, steps=steps).mean(axis=0) for kind in ("model", "genuine"))
            found["norm_ratio"] = ours / theirs
        return found

    def measure(self, name: str, steps: int | None = None) -> pd.DataFrame:
        """The table of a peer's measure (`norms`, `delta`, `sliced`).

        Raises:
            InputError: it was not taken.
        """
        stored = self.stored(name, steps)
        return MEASURES.get(name).table(stored, self.path_of_states, int(self.config["probe"]["seed"]))

    def stored(self, name: str, steps: int | None = None) -> dict[str, dict[str, np.ndarray]]:
        """What a peer's measure saved: kind -> name -> array.

        Raises:
            InputError: it was not taken.
        """
        if name not in self.measures:
            raise InputError(f"{self.path} holds no measure '{name}'; measure again with --measure {name}")
        measure, steps = MEASURES.get(name), steps or self.steps[0]
        stored = {}
        for kind in measure.kinds:
            arrays = self._arrays.get((kind, self._start(kind, measure.start), steps), {})
            own = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
            if own:
                stored[kind] = own
        return stored

    def suggest(self, reference: str | None = None, steps: int | None = None, method: str = "auto") -> GammaFit:
        """gamma by every estimator, the recommended one, and a verdict; at the first number of steps unless told.

        Args:
            reference: read gamma from this reference instead.
            steps: at this step count.
            method: whose gamma is recommended: auto, band or excess.

        Raises:
            InputError: the reference was not measured, or an unknown method.
        """
        if reference is not None and reference not in self.singles:
            raise InputError(f"{self.path} was not measured under '{reference}' (it has {', '.join(self.singles)})")
        steps = steps or self.steps[0]
        path = self.path_of_states
        fit = gamma.fit(
            self.readings(steps),
            band_reference=reference or self.band_reference,
            excess_reference=reference or self.main_reference,
            seed=int(self.config["probe"]["seed"]),
            others={other: self.readings(other) for other in self.steps if other != steps},
            steps=steps,
            log_snr=lambda t: path.log_snr(torch.from_numpy(np.asarray(t, dtype=np.float64))).numpy(),
        )
        chosen = recommend(fit, method)
        return replace(
            chosen,
            warnings=(*cautions(self, steps), *fit.warnings),
            outlook=forecast.said(self.readings(steps).get("level", {}), chosen.gamma),
        )

    def asked(self, *, model: str | None = None, data: str | None = None) -> dict[str, Any]:
        """How model and data were asked for when this was measured, with what has moved since put in.

        Raises:
            InputError: they were Python objects, and the caller does not say where they are.
        """
        known = {"family": "sit", **dict.fromkeys(("factory", "interpolant", "prediction", "heads"))}
        found = {**known, **(self.facts.get("reopen") or {})}
        if "beside" in found:
            found["model"] = str(self.path / found.pop("beside"))
        found |= {key: value for key, value in (("model", model), ("data", data)) if value is not None}
        missing = [key for key in ("model", "data") if found.get(key) is None]
        if missing:
            raise InputError(
                f"{self.path} was measured from Python objects and does not know where its {missing[0]} is; name it "
                f"(--{missing[0]}), or call diagnose from Python"
            )
        return found

    def diagnose(self, model: FlowModel | None = None, data: ImageSet | None = None, **settings: Any) -> Diagnosis:
        """Why the states lag: `slowflow.measuring.causes.diagnosing.diagnose` on this measurement.

        Args:
            model, data: what was measured; opened again where they were named, not given as objects.
            settings: out, samples, steps, progress.
        """
        from slowflow.measuring.causes.diagnosing import diagnose

        if model is None or data is None:
            found = self.asked(model="" if model else None, data="" if data else None)
            options = OpenOptions(*(found[name] for name in ("interpolant", "prediction", "heads", "factory")))
            model = model or open_model(found["model"], found["family"], options).model
            data = data or open_data(found["data"], classes=model.classes)
        return diagnose(self, model, data, **settings)

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
            "remedy": self.config.get("remedy"),
            "intervals": f"95 %, {RESAMPLES} bootstrap resamples of trajectories",
        }

    def result(self) -> dict[str, Any]:
        """The machine-readable answer of `slowflow measure --json`."""
        return answer(self)

    def __str__(self) -> str:
        fit = self.suggest()
        return (
            f"Measurement of '{self.config['model']['name']}' in {self.path}: {self.config['probe']['samples']} samples, "
            f"{self.steps} steps, {', '.join(self.references)}; {fit.verdict}, gamma {fit.gamma:.3f}"
        )
