"""From a measurement to what sampling remedies are fitted to: its curves with their resamples, and the data's variances.

Remedies know nothing of measurements and measurements nothing of remedies; the doors bring them together here. The null of
every curve is the perfect model (kind `exact`) where it was measured, since it starts from the same noise and its curve is
paired with the model's sample by sample; else genuine states.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slowflow.config import from_mapping
from slowflow.data.bank import LARGEST, Bank
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.families.open import identity
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import sampler
from slowflow.measuring.bootstrap import RESAMPLES, mean_curve, weights
from slowflow.measuring.gamma import CLOCKS
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.screening import screened
from slowflow.measuring.slack import Clock, Reading, Slack
from slowflow.measuring.straight import straightened
from slowflow.records import Estimate, Probe
from slowflow.remedies.sampling.findings import Curve, Findings

NULLS = ("exact", "genuine")


def findings(measured: Measurement, model: FlowModel, data: ImageSet, steps: int | None = None) -> Findings:
    """What a measurement tells sampling remedies.

    Args:
        measured: of this model on these data, without a remedy.
        model, data: what was measured.
        steps: at which of its step counts; the first unless told.

    Raises:
        InputError: another model, other data, a measurement of remedied or guided sampling, steps not measured.
    """
    _refuse(measured, model, data)
    probe = from_mapping(Probe, measured.config["probe"], f"the probe of {measured.path}")
    steps = steps or measured.steps[0]
    if steps not in measured.steps:
        raise InputError(f"{measured.path} was measured at {measured.steps} steps, not at {steps}")
    seen, held = data.split(float(measured.config["data"]["heldout"]))
    seen, _ = screened(seen, held, probe.bank, probe.seed)
    bank = Bank.of(seen, conditional=model.classes > 0)
    small = int(np.prod(model.shape)) <= LARGEST
    variances, counts = np.unique(bank.within.variance, return_counts=True) if small else (None, None)
    readings = measured.readings(steps)
    if "level" in readings:
        readings = {**readings, "level": straightened(readings["level"])}
    fit = measured.suggest(steps=steps)
    clocks = {name: _squares(readings.get(name, {}), probe.seed) for name in CLOCKS}
    return Findings(
        source=str(measured.path),
        path=model.interpolant,
        grid=sampler(probe.sampler).grid(model, steps, probe.shift).numpy(),
        sampler=probe.sampler,
        variances=variances,
        counts=None if counts is None else counts.astype(np.float64),
        pixel_variance=_pixel_variance(bank, model.classes),
        lags=_lags(readings, probe.seed),
        excess=_excess(fit.estimates),
        signal=clocks["signal clock"],
        noise=clocks["noise clock"],
        noise_norm=_noise_norm(measured, steps, probe.seed),
        spread=_spread(readings.get("level", {}), probe.seed),
        level_null=_level_null(measured.readings(steps).get("level", {}), probe.seed),
        spectrum=bank.spectrum if small else None,
        fingerprint=bank.fingerprint,
        verdict=fit.verdict,
    )


def _refuse(measured: Measurement, model: FlowModel, data: ImageSet) -> None:
    if measured.config["model"].get("weights_sha256") != identity(model)["weights_sha256"]:
        raise InputError(
            f"{measured.path} is a measurement of '{measured.config['model']['name']}', not of '{model.name}' as it is here "
            "(their weights differ); measure this model"
        )
    if data.fingerprint != measured.config["data"]["sha256"]:
        raise InputError(f"'{data.name}' is not the data that {measured.path} was measured on (its hash differs)")
    remedy = measured.config.get("remedy")
    if remedy is not None:
        raise InputError(
            f"{measured.path} was sampled with the remedy '{remedy['name']}'; constants are fitted to the model as it is, so "
            "measure without a remedy"
        )
    if measured.config["probe"]["guidance"] != 1.0:
        raise InputError(
            f"{measured.path} was sampled with guidance, whose target is not the law of the nulls; measure without guidance"
        )


def _rows(n: int, seed: int, purpose: str) -> np.ndarray:
    """Everyone once, then the resamples: [1 + resamples, n]."""
    return np.concatenate([np.ones((1, n)), weights(n, RESAMPLES, seed, purpose)])


def _drawn(kinds: Mapping[str, Reading], kind: str, seed: int) -> np.ndarray:
    """Rows of one kind; kinds of as many samples on the same noise share them."""
    own = kind == "genuine" or len(kinds[kind]) != len(kinds["model"])
    return _rows(len(kinds[kind]), seed, kind if own else "model")


def _null(kinds: Mapping[str, object]) -> str | None:
    return next((kind for kind in NULLS if kind in kinds), None)


def _lags(readings: Mapping[str, Mapping[str, Reading]], seed: int) -> dict[str, Curve]:
    """m of the model's states, the null's distance from t taken off."""
    found = {}
    for name in ("level", *CLOCKS):
        kinds = readings.get(name, {})
        null = _null(kinds)
        if "model" in kinds and null is not None:
            model, t = kinds["model"], kinds["model"].t
            slack = model.mean_slack(_drawn(kinds, "model", seed)) - kinds[null].mean_slack(_drawn(kinds, null, seed))
            found[name] = Curve(t, t * (1.0 - slack), min(len(model), len(kinds[null])))
    return found


def _excess(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Estimate]]:
    """reading -> null -> its excess in units of gamma, and the floor, as a fit of gamma names them."""
    found = {}
    for reading, prefix in {"level": "excess", **CLOCKS}.items():
        names = {null: f"{prefix}_{null}" for null in NULLS}
        names["floor"] = "floor" if prefix == "excess" else f"{prefix}_floor"
        found[reading] = {null: estimates[name] for null, name in names.items() if name in estimates}
    return found


def _squares(kinds: Mapping[str, Reading], seed: int) -> tuple[Curve, Curve] | None:
    """(model's, null's) squared coefficient of a clock."""
    null = _null(kinds)
    if "model" not in kinds or null is None:
        return None
    pair = []
    for kind in ("model", null):
        clock = kinds[kind]
        if not isinstance(clock, Clock):
            return None
        pair.append(Curve(clock.t, mean_curve(clock.square, _drawn(kinds, kind, seed)), len(clock)))
    return pair[0], pair[1]


def _noise_norm(measured: Measurement, steps: int, seed: int) -> Curve | None:
    """Norm of the predicted noise on the model's states over that on the null's."""
    if "norms" not in measured.measures:
        return None
    stored = measured.stored("norms", steps)
    null = _null(stored)
    if "model" not in stored or null is None:
        return None
    values = {kind: stored[kind]["noise"] for kind in ("model", null)}
    paired = len(values["model"]) == len(values[null]) and null == "exact"
    curves = {
        kind: mean_curve(v, _rows(len(v), seed, "norms" if paired else f"norms/{kind}")) for kind, v in values.items()
    }
    return Curve(stored["model"]["t"][0], curves["model"] / curves[null], min(map(len, values.values())))


def _spread(kinds: Mapping[str, Reading], seed: int) -> tuple[Curve, Curve] | None:
    """Variance over states of the calibrated level, (model's, genuine states')."""
    pair = []
    for kind in ("model", "genuine"):
        one = kinds.get(kind)
        if not isinstance(one, Slack):
            return None
        drawn = _rows(len(one), seed, kind)
        pair.append(Curve(one.t, mean_curve(one.m**2, drawn) - mean_curve(one.m, drawn) ** 2, len(one)))
    return pair[0], pair[1]


def _level_null(kinds: Mapping[str, Reading], seed: int) -> Curve | None:
    """Mean level read from genuine states, not calibrated."""
    one = kinds.get("genuine")
    return (
        Curve(one.t, mean_curve(one.m, _rows(len(one), seed, "genuine")), len(one)) if isinstance(one, Slack) else None
    )


def _pixel_variance(bank: Bank, classes: int) -> tuple[float, ...]:
    """Mean variance over the pixels of an image, a class or in all."""
    return tuple(float(bank.shard(k).var(axis=1, ddof=1).mean()) for k in (range(classes) if classes else (0,)))
