"""What a report says in words. Every sentence is made from the numbers it stands beside, never the other way round."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from slowflow.evaluating.evaluation import Evaluation
from slowflow.records import Estimate, GammaFit, change_word
from slowflow.results import Arm, RunResult, lag_change

HEADLINE = {
    "none detectable": "No lag that belongs to this model was found",
    "detected": "Generated states lag behind the ground truth",
    "steps dominate": "The lag comes mostly from the step size",
    "off path": "Generated states leave the path of real interpolations",
    "fast": "Generated states run ahead of the ground truth",
}
ADVICE = {
    "none detectable": "Nothing here calls for a correction; more samples would narrow the intervals.",
    "detected": "A correction is worth trying; compare it with plain training of the same length before shipping it.",
    "steps dominate": "Use more steps or Heun first; post-training would treat the wrong cause.",
    "off path": "No single time describes these states; look at the samples and the residual before correcting anything.",
    "fast": "MixFlow slows the inputs of training, the wrong direction here; do not apply it.",
}

PART = {"steps": "step size", "local": "error on real states", "accumulation": "accumulation"}
MADE = {
    "steps": "made by the step size",
    "local": "error of the network on real states already",
    "accumulation": "accumulated from the network's own output, which is exposure bias proper",
}


@dataclass(frozen=True)
class Change:
    """One arm against another on one metric.

    Args:
        metric: fd, density, coverage or agreement. label: its printed name.
        estimate: difference, paired by sample id.
        word: better, worse or `no significant change`.
    """

    metric: str
    label: str
    estimate: Estimate
    word: str


def signed(estimate: Estimate, digits: int = 2) -> str:
    """+1.23 [+0.50, +1.90]."""
    numbers = [f"{x:+.{digits}f}".replace("-", "−") for x in (estimate.value, estimate.low, estimate.high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def plain(estimate: Estimate, digits: int = 2) -> str:
    """1.23 [0.50, 1.90]."""
    numbers = [f"{x:.{digits}f}".replace("-", "−") for x in (estimate.value, estimate.low, estimate.high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def percent(share: float) -> str:
    """65 %."""
    return f"{100.0 * share + 0.0:.0f} %".replace("-", "−")


def typeset(words: str) -> str:
    """A minus where a hyphen stands before a number."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", words)


def decimals(metric: str, estimate: Estimate) -> int:
    """Digits after the point: few for distances and scores, whose size depends on the features, unless they are small."""
    if metric not in ("fd", "sfd", "is"):
        return 3
    return 2 if estimate.high - estimate.low >= 0.02 else 4


def changes(result: RunResult, after: Arm, before: Arm, steps: int) -> list[Change]:
    """All metrics of one arm against another at one step count."""
    a, b = result.evaluations[after.name], result.evaluations[before.name]
    found = []
    for metric in a.metrics:
        difference = a.difference(b, metric, steps)
        found.append(Change(metric, a.label(metric), difference, change_word(metric, difference)))
    return found


def pairs(result: RunResult) -> list[tuple[Arm, Arm]]:
    """(MixFlow arm, plain arm of the same length), the longest first."""
    plains = {arm.steps: arm for arm in result.arms if arm.role == "plain"}
    mixed = sorted((arm for arm in result.arms if arm.role == "mixflow"), key=lambda arm: -arm.steps)
    return [(arm, plains[arm.steps]) for arm in mixed if arm.steps in plains]


def evaluated_pairs(result: RunResult) -> list[tuple[Arm, Arm]]:
    """Those pairs whose two arms were evaluated."""
    return [pair for pair in pairs(result) if {arm.name for arm in pair} <= result.evaluations.keys()]


def settings(protocol: dict[str, Any]) -> str:
    """How samples were made, in a line."""
    guidance = "no guidance" if protocol["guidance"] == 1.0 else f"guidance {protocol['guidance']:g}"
    steps = f"{protocol['steps']} steps, {protocol['nfe']} calls" if protocol["steps"] else "steps not recorded"
    return f"n {protocol['n']:,}, {protocol['sampler']}, {steps}, {guidance}, labels {protocol['labels'].split(':')[0]}"


def against(found: Evaluation) -> str:
    """What the samples stand against: `against 400 held-out images`."""
    facts = found.facts
    if facts["reference"].get("moments"):
        pictures = f" and {facts['n_real']:,} of its images" if facts["n_real"] else ""
        return f"against the moments of {facts['reference']['name']}{pictures}"
    return f"against {facts['n_real']:,} held-out images"


def features_sentence(found: Evaluation) -> str:
    """What the Frechet distance of an evaluation is a distance in, and what it may be compared with."""
    features = found.facts["features"]
    if features["name"] == "FID":
        return "FID is measured by the network of the published one, told by the hash of its file; compare it under one protocol."
    accuracy = features.get("heldout_accuracy")
    if features["name"] == "FD-pixels":
        what = "in the values themselves"
    elif accuracy is not None:
        what = f"in the features of a small classifier (its accuracy on real held-out images is {accuracy:.3f})"
    else:
        what = "in the features of a network of your choice, which the protocol names by hash"
    return f"{features['name']} is a distance {what}; it is not FID and compares only within this protocol."


def main_steps(result: RunResult) -> int:
    """The step count the headline speaks of: the measured one if it was evaluated, else the largest evaluated."""
    first = next(iter(result.evaluations.values()))
    measured = result.measured.steps[0] if result.measurements else first.steps[-1]
    return measured if measured in first.steps else max(first.steps)


@dataclass(frozen=True)
class Finding:
    """One sentence anybody understands, and the numbers it rests on."""

    sentence: str
    numbers: str


def lag_finding(result: RunResult) -> Finding:
    """Does this model lag? The verdict, the readings it is read from, and its reason."""
    found, fit = result.measured, result.fit
    name = found.protocol()["sampler"]
    sampler = {"euler": "Euler", "heun": "Heun", "recombine": "DDIM-form", "em": "stochastic"}.get(name, name)
    reason = fit.reason.removeprefix(f"{HEADLINE[fit.verdict][0].lower()}{HEADLINE[fit.verdict][1:]}: ")
    read_from = f"Read from {', '.join(result.heard)}" if result.heard else "Read without nulls"
    return Finding(
        f"{HEADLINE[fit.verdict]} at {found.steps[0]} {sampler} steps.",
        typeset(f"{read_from}; n = {found.protocol()['samples']}: {reason}."),
    )


def cause_finding(result: RunResult) -> Finding | None:
    """What makes the lag? None without a diagnosis, or where it and the measurement agree that there is none."""
    found = result.diagnosis
    if found is None or (
        found.cause == "none" and (not result.measurements or result.fit.verdict == "none detectable")
    ):
        return None
    division, steps = found.main, found.counts[0]
    whole = f"{found.reading[0].upper()}{found.reading[1:]} at {steps} steps, lag {signed(division.lag, 3)} in units of gamma"
    if found.cause == "none":
        return Finding("The diagnosis finds no lag clear of zero to divide among causes.", f"{whole}.")
    parts = "; ".join(f"{PART[part]} {signed(one, 3)}" for part, one in division.parts.items())
    sharper = ""
    if result.measurements and result.fit.verdict == "none detectable":
        sharper = "A sharper look, against real states of the same noise and images, does find one. "
    if found.cause == "fast":
        return Finding(f"{sharper}States run ahead ({found.reading}).", f"{whole}: {parts}.")
    if found.cause == "undivided":
        return Finding(f"{sharper}No single cause of the lag ({found.reading}) is clear of zero.", f"{whole}: {parts}.")
    most = "Most" if division.shares[found.cause].low > 0.5 else "The largest part"
    return Finding(f"{sharper}{most} of the lag ({found.reading}) is {MADE[found.cause]}.", f"{whole}: {parts}.")


def remedy_finding(result: RunResult) -> Finding | None:
    """Did MixFlow help, against plain training of the same length? None where there is no such pair of arms."""
    matched = evaluated_pairs(result)
    if not matched:
        return None
    mixed, control = matched[0]
    steps = main_steps(result)
    found = changes(result, mixed, control, steps)
    against = f"than plain training of the same length ({mixed.steps:,} steps)"
    numbers = "; ".join(f"{c.label} {signed(c.estimate, decimals(c.metric, c.estimate))} {c.word}" for c in found)
    numbers = f"MixFlow with gamma {mixed.gamma:.2f} minus plain, {steps} sampling steps: {numbers}."
    if {mixed.name, control.name} <= result.measurements.keys():
        change = lag_change(result.measurements[control.name], result.measurements[mixed.name])
        word = "no significant change" if not change.excludes(0.0) else "faster" if change.value < 0 else "slower"
        numbers += f" Slack of the states, in units of gamma: {signed(change, 3)} {word}."
    return Finding(
        f"MixFlow left the samples {_verdict(found)} {against}{_elsewhere(result, mixed, control)}.", numbers
    )


def distance_words(result: RunResult, after: Arm, before: Arm) -> dict[int, str]:
    """Whether the Frechet distance is better, worse or neither, at every step count."""
    a, b = result.evaluations[after.name], result.evaluations[before.name]
    return {steps: change_word("fd", a.difference(b, "fd", steps)) for steps in a.steps}


def _elsewhere(result: RunResult, after: Arm, before: Arm) -> str:
    """`, and further from them at 5 and 10 steps`: what the other step counts say about distance."""
    words, parts = distance_words(result, after, before), []
    for word, said in (("better", "closer to"), ("worse", "further from")):
        steps = [str(s) for s, w in words.items() if w == word and s != main_steps(result)]
        if steps:
            parts.append(f"{said} them at {', '.join(steps)} steps")
    return f", and {' and '.join(parts)}" if parts else ""


def findings(result: RunResult) -> list[Finding]:
    """The sentences at the top of a page: the lag where it was measured, the remedy where it has a control."""
    lag = lag_finding(result) if result.measurements else None
    return [finding for finding in (lag, cause_finding(result), remedy_finding(result)) if finding is not None]


def _verdict(found: list[Change]) -> str:
    """`closer to the real ones, though worse in coverage,`: distance first, then what else moved, with or against it."""
    words = {c.metric: c.word for c in found}
    overall = {"better": "closer to the real ones", "worse": "further from the real ones"}
    named = {"density": "density", "coverage": "coverage", "agreement": "label agreement"}
    moved = [(words[m], f"{words[m]} in {named[m]}") for m in named if words.get(m) in overall]
    distance = overall.get(words["fd"], "no measurably nearer to or further from the real ones")
    against = any(word != words["fd"] for word, _ in moved)
    said = " and ".join(text for _, text in moved)
    return f"{distance}, {'though' if against else 'and'} {said}," if moved else distance


def lag_advice(result: RunResult) -> str:
    """What the lag by itself calls for: the cause decides where it is known and the verdict leaves it open."""
    found = result.diagnosis
    verdict = result.fit.verdict if result.measurements else "none detectable"
    if found is not None and found.cause != "none" and verdict in ("none detectable", "detected", "steps dominate"):
        return found.advice
    return ADVICE[verdict]


def calls_for_training(result: RunResult) -> bool:
    """True where states lag and nothing says that another cause than accumulation makes it."""
    found, verdict = result.diagnosis, result.fit.verdict
    if found is not None and found.cause not in ("none", "undivided"):
        return verdict in ("none detectable", "detected") and found.cause == "accumulation"
    return verdict == "detected"


def advice(result: RunResult) -> str:
    """What to do next, in one sentence: MixFlow has to beat both its control and the model it started from."""
    if not result.measurements and result.diagnosis is None:
        return "Measure the model first."
    matched = evaluated_pairs(result)
    if not matched or result.base.name not in result.evaluations:
        return lag_advice(result)
    mixed, control = matched[0]
    against_control = distance_words(result, mixed, control)
    steps = main_steps(result)
    words = [against_control[steps], distance_words(result, mixed, result.base)[steps]]
    if words == ["better", "better"]:
        return (
            "The MixFlow model is the better one on this evidence; confirm with more samples and another training seed."
        )
    if words[1] == "worse":
        return "Do not ship this MixFlow model: it is further from the real images than the model it started from."
    if words[0] == "worse":
        return "Prefer plain training of the same length: it ends nearer to the real images than MixFlow does."
    if words[0] == "better":
        return "MixFlow beats plain training of the same length, but is not measurably better than the model it started from."
    everywhere = set(against_control.values())
    if "worse" in everywhere and "better" not in everywhere:
        return "Prefer plain training of the same length: MixFlow is further from the real images at some steps, nearer at none."
    return "There is no reason to prefer the MixFlow model over plain training on this evidence."


def origin(fit: GammaFit) -> str:
    """Where the recommended gamma comes from."""
    if fit.method.startswith("fixed"):
        return "a fixed value that studies support, read from no estimate here"
    if fit.method == "excess":
        return f"the excess under '{fit.excess_reference}'"
    return f"the {fit.method} of the raw fan under '{fit.band_reference}'"


def reasons(fit: GammaFit) -> list[str]:
    """Why that gamma is recommended, clause by clause."""
    return [typeset(part) for part in fit.reasons]


def width_sentence(result: RunResult) -> str:
    """What the sentence that names gamma begins with: worth trying, not called for, or tried already."""
    if evaluated_pairs(result):
        return "What a correction did here is said at the top. The width that suggest recommends is"
    if calls_for_training(result):
        return "A correction is worth trying, with"
    return (
        "The evidence here does not call for a correction by post-training. Whoever wants the paper's recipe all the same "
        "would use"
    )
