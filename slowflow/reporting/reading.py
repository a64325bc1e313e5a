"""What is real and what is artefact: plain words, each sentence made from the numbers it stands beside."""

from __future__ import annotations

from dataclasses import dataclass

from slowflow.figures.zeros import Zero, bands, zeros
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.causes.shares import PARTS, Division
from slowflow.measuring.verdict import NULLS, ZERO_ERROR
from slowflow.records import Estimate
from slowflow.reporting.text import PART, percent, plain, signed, typeset
from slowflow.results import RunResult

SHAPE = {
    "interval": "an interval: the slowed times [(1 − γ) t, t] describe it",
    "shift": "a shift: all states lag alike, and a fixed shift of the time label is the honest model",
    "jitter": "jitter: states scatter to both sides, and a one-sided interval is the wrong remedy",
    "fast": "fast: slowing the inputs of training is the wrong direction",
    "none": "none that can be named at this precision",
}
LAW = {
    "none": "no lag",
    "gamma t": "gamma t / 2, whatever the step size",
    "c h": "the step size alone",
    "gamma t + c h": "gamma t / 2 and the step size",
}


@dataclass(frozen=True)
class Passage:
    """A question and the sentences that answer it."""

    question: str
    sentences: tuple[str, ...]


def passages(result: RunResult) -> list[Passage]:
    """Artefact, real, causes, shape, and what a calibration says; those there are numbers for."""
    found = []
    if result.measurements:
        own = zeros(result)
        found += [
            Passage("Artefact: what states show that do not lag", artefacts(result, own)),
            Passage("Real: what is left of this model above both nulls", real(result, own)),
        ]
    if result.measurements or result.diagnosis is not None:
        found.append(Passage("Causes", causes(result)))
    if result.measurements:
        found.append(Passage("Shape of the slack", shape(result)))
    if result.calibrations:
        found.append(Passage("Calibration on states of known truth", calibrated(result)))
    return [Passage(one.question, tuple(map(typeset, one.sentences))) for one in found if one.sentences]


def artefacts(result: RunResult, own: list[Zero]) -> tuple[str, ...]:
    """Which readings have their zero elsewhere than on the diagonal, and how much of the band that is."""
    null = next((kind for kind in ("exact", "genuine") if any(kind in zero.raw for zero in own)), None)
    if null is None:
        return ("No null was measured, so nothing says what is artefact here; measure again with the default nulls.",)
    who, known = NULLS[null], [zero for zero in own if null in zero.raw]
    off = [zero for zero in known if null in zero.off]
    sentences = []
    if off:
        parts = ", ".join(f"{signed(zero.raw[null], 3)} under '{zero.reading}'" for zero in off)
        sentences.append(
            f"Compared with the diagonal m = t alone, {who}, which does not lag, reads gamma {parts} (below zero: fast)."
        )
    near = [f"'{zero.reading}'" for zero in known if zero not in off]
    if near:
        sentences.append(f"It is not clear of zero, or within {ZERO_ERROR} of it, under {_joined(near)}.")
    beyond = [(z.reading, z.artefact) for z in own if z.artefact is not None and z.differs]
    if beyond:
        parts = ", ".join(f"{signed(one, 3)} under '{reading}'" for reading, one in beyond)
        sentences.append(
            f"A perfect model also differs from genuine states, by {parts}: there the excess over genuine states is in part "
            "the reading's own."
        )
    return (*sentences, *_band(result))


def _band(result: RunResult) -> tuple[str, ...]:
    """How much of the raw band states draw that do not lag."""
    found, reference = bands(result), result.fit.band_reference
    nulls = [f"{plain(found[kind], 3)} through {NULLS[kind]}" for kind in NULLS if kind in found]
    if not nulls:
        return ()
    wide = found["model"]
    share = max(found[kind].value for kind in NULLS if kind in found) / wide.value if wide.value > 0 else 0.0
    rest = f": {percent(min(share, 1.0))} of it needs no fault of this model" if share > 0 else ""
    return (
        f"The band of the raw fan ('{reference}') is {plain(wide, 3)}; the same line is at {_joined(nulls)}{rest}.",
    )


def real(result: RunResult, own: list[Zero]) -> tuple[str, ...]:
    """What the readings of the verdict leave, and which others differ without counting."""
    heard = [zero for zero in own if zero.heard]
    if not heard:
        return ("Nothing says what zero is, so nothing can be called real.",)
    sentences = [_left(zero) for zero in heard if zero.lag.side]
    if not sentences:
        names = _joined([zero.reading for zero in heard])
        sentences.append(f"Nothing: in none of the readings of the verdict ({names}) is a lag clear of both nulls.")
        if result.diagnosis is not None and result.diagnosis.cause != "none":
            sentences.append(
                "The diagnosis is sharper, because its real states share noise and images: see the causes."
            )
    else:
        rest = [zero.reading for zero in heard if not zero.lag.side]
        sentences += [f"Not clear of both nulls: {_joined(rest)}."] if rest else []
    small = [zero for zero in heard if zero.lag.clear and not zero.lag.side]
    sentences += [
        f"{the(zero.reading)} is clear of zero, but not of what the instrument makes by itself, {zero.lag.floor:.3f}."
        for zero in small
    ]
    others = [
        f"{zero.reading} ({'slow' if zero.lag.side > 0 else 'fast'})"
        for zero in own
        if not zero.heard and zero.lag.side
    ]
    if others:
        sentences.append(
            f"Differing from both nulls without counting for the verdict: {_joined(others)}. These readings also move when "
            "the model joins noise to other images than a perfect model does, or when samples are far from every real image."
        )
    return tuple(sentences)


def _left(zero: Zero) -> str:
    """One reading that is clear of both nulls."""
    word = "slow" if zero.lag.side > 0 else "fast"
    sizes = _joined([f"{signed(one, 3)} over {NULLS[null]}" for null, one in zero.lag.zeros.items()])
    steps = ""
    if zero.lag.steps is not None and zero.lag.side > 0:
        steps = f"; a perfect model under the same steps lags {percent(max(zero.lag.steps, 0.0))} as much"
    return f"{the(zero.reading)} is {word} by gamma {sizes}{steps}."


def causes(result: RunResult) -> tuple[str, ...]:
    """How the lag divides, or how to find out."""
    found = result.diagnosis
    if found is None:
        if result.measured.config["probe"]["guidance"] != 1.0:
            return ("Not divided: guided states have no such causes. Measure without guidance, and diagnose that.",)
        return ("Not divided yet. One command on the measured folder does it: slowflow diagnose RUN",)
    clear = {name: division for name, division in found.divisions.items() if division.clear}
    if not clear:
        name, lag = found.reading, found.main.lag
        return (
            f"No lag is clear of zero ({name}: {signed(lag, 3)} at {found.counts[0]} steps), so there is none to divide.",
        )
    sentences = [_division(name, division, found.counts[0]) for name, division in clear.items()]
    return (*sentences, *_beside(found), found.advice)


def _division(name: str, division: Division, steps: int) -> str:
    """One lag as a sum."""
    parts = " + ".join(f"{PART[part]} {signed(division.parts[part], 3)}" for part in PARTS)
    sure = [PART[part] for part in PARTS if division.parts[part].excludes(0.0)]
    kept = f"Clear of zero: {_joined(sure)}." if sure else "None of the parts is clear of zero by itself."
    return f"{the(name)} at {steps} steps: the lag, {signed(division.lag, 3)}, is {parts}. {kept}"


def _beside(found: Diagnosis) -> tuple[str, ...]:
    """Whether one time m can describe the states."""
    share, divergence = found.off_path
    if divergence.low <= 0.0:
        return ()
    return (
        f"Of all that tells these states from real ones (divergence {plain(divergence, 3)} nats), "
        f"{_percent(share)} is taken away by no single slowed time.",
    )


def shape(result: RunResult) -> tuple[str, ...]:
    """Shape with its reason, and the gap that survives a warp of time."""
    fit = result.fit
    reason = f" ({fit.shape_reason})" if fit.shape_reason else ""
    sentences = [f"Under '{fit.excess_reference}': {SHAPE[fit.shape]}{reason}."]
    if fit.log_snr_gap is not None:
        sentences.append(
            f"Its excess in log SNR, which no warp of time changes: {signed(fit.log_snr_gap, 3)} (above zero: slow)."
        )
    laws = [f"{LAW[law]} under '{name}'" for name, law in fit.laws.items()]
    if laws:
        counts = _joined([str(steps) for steps in sorted(result.measured.steps)])
        sentences.append(
            f"Over {counts} steps the lag t − m follows, on trajectories left out of the fit: {_joined(laws)}."
        )
    return tuple(sentences)


def calibrated(result: RunResult) -> tuple[str, ...]:
    """The verdict of a calibration on every reading, and whether the measurement's verdict hears one that failed."""
    sentences = []
    for one in result.calibrations:
        sentences += [f"{name}: {found['reason']}." for name, found in one.references.items()]
        failed = [name for name in one.references if name not in one.usable]
        heard = [name for name in failed if result.measurements and name in result.heard]
        if heard:
            sentences.append(
                f"The verdict above hears {_joined(heard)} all the same; this calibration, at n = {one.facts['samples']}, "
                "is a reason to doubt it."
            )
    return tuple(sentences)


def the(reading: str) -> str:
    """Clocks have an article, references are names."""
    return f"The {reading}" if reading.endswith("clock") else f"'{reading}'"


def _percent(one: Estimate) -> str:
    return f"{percent(one.value)} [{percent(one.low)}, {percent(one.high)}]"


def _joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
