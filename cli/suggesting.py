"""suggest: which gamma follows from a measurement, by an estimator or by a pilot that trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s

from slowflow.errors import InputError


def say_fit(output: s.Output, fit: Any) -> None:
    """gamma and verdict for people; files and --json name the estimates by their keys."""
    from slowflow.measuring.named import grouped, headings, taken

    output.say(f"verdict: {fit.verdict}: {fit.reason}")
    output.say(f"\ngamma {fit.gamma:.3f} (method: {fit.method}; {fit.time})")
    for part in fit.reasons:
        output.say(f"  {part}")
    if fit.outlook:
        output.say(f"  {fit.outlook}")
    titles = headings(fit)
    for family, rows in grouped(fit.estimates).items():
        output.say(f"\n  {titles[family]}")
        for name, meaning, estimate in rows:
            output.say(f"    {meaning:<42}{_aligned(estimate)}{'  <- taken' if name == taken(fit) else ''}")
    if fit.log_snr_gap is not None:
        output.say(f"\n  {'the excess as a gap in log SNR':<44}{_aligned(fit.log_snr_gap)}")
    output.say(f"\nshape: {fit.shape}: {fit.shape_reason}")
    for text in fit.warnings:
        output.say(f"  warning: {text}")


def _aligned(found: Any) -> str:
    """A number and its interval, under those of other lines."""
    return f"{found.value:6.3f} [{found.low:6.3f}, {found.high:6.3f}]"


@dataclass(frozen=True)
class _Pilot:
    """What `suggest --method pilot` was asked."""

    budget: int
    features: str
    metric: str
    lr: float
    samples: int
    steps: int
    out: Path | None
    model: str | None
    data: str | None
    seed: int
    device: str
    threads: int

    def run(self, measured: Any, output: s.Output) -> Any:
        """Halve, and say what each rung found.

        Raises:
            InputError: no budget, or model and data are not found again.
        """
        if self.budget < 1:
            raise InputError("--method pilot needs --budget, the network calls it may take (say 2000000)")
        where, precision = s.setup(self.threads, self.device)
        from dataclasses import replace

        from slowflow.data.open import open_data
        from slowflow.evaluating.engine import Sampling
        from slowflow.evaluating.evaluation import label
        from slowflow.evaluating.features import open_features
        from slowflow.study.pilot import PilotConfig, pilot

        asked = measured.asked(model=self.model, data=self.data)
        names = ("model", "family", "factory", "interpolant", "prediction", "heads")
        opened = s.open_model(output, *(asked[name] for name in names), where, precision)
        usual = PilotConfig(budget=self.budget)
        settings = PilotConfig(
            budget=self.budget,
            metric=self.metric,
            seeds=(self.seed, self.seed + 1),
            sampling=Sampling(samples=self.samples, steps=(self.steps,), seed=2000 + self.seed),
            train=replace(usual.train, lr=self.lr, lr_final=self.lr),
            heldout=float(measured.config["data"]["heldout"]),
        )
        images = open_data(asked["data"], classes=opened.model.classes)
        judged = open_features(self.features, opened.model.shape, device=where)
        folder = self.out or measured.path / "pilot"
        output.say(f"piloting into {folder}")
        found = pilot(opened.model, images, judged, settings, folder, progress=output.progress("pilot"))
        for rung in found.rungs:
            pairs = ", ".join(f"{g:g}: {v:.3f}" for g, v in zip(rung["gammas"], rung["means"], strict=True))
            plain = f"; plain training: {rung['plain']:.3f}" if "plain" in rung else ""
            output.say(f"  {rung['length']} steps, {label(self.metric, judged.name)} by gamma: {pairs}{plain}")
        return found


def suggest(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A measurement, or the folder of a whole run.")],
    method: Annotated[
        str, typer.Option(help="auto, band, excess, or pilot: short post-trainings within --budget network calls.")
    ] = "auto",
    reference: Annotated[str | None, typer.Option(help="Read gamma from this reference instead.")] = None,
    snippet: Annotated[bool, typer.Option("--snippet", help="Print MixFlow for a training loop of your own.")] = False,
    time: Annotated[
        str,
        typer.Option(
            help="Time of that loop: forward (t = 1 data), reversed (t = 1 noise), index; auto: the family's."
        ),
    ] = "auto",
    budget: Annotated[int, typer.Option(help="pilot: network calls it may take.")] = 0,
    features: Annotated[str, typer.Option(help="pilot: what the metric is measured in.")] = "pixels",
    metric: Annotated[str, typer.Option(help="pilot: fd, density, coverage or agreement.")] = "fd",
    lr: Annotated[float, typer.Option(help="pilot: learning rate after warm-up.")] = 2e-4,
    samples: Annotated[int, typer.Option(help="pilot: samples a look.")] = 500,
    steps: Annotated[int, typer.Option(help="pilot: intervals of a look.")] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", help="pilot: run folder; default: pilot inside the measurement.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="pilot: MODEL, where it is not where it was when measured.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="pilot: DATA, where it is not where it was.")] = None,
    seed: s.Seed = 0,
    device: s.Device = "auto",
    threads: s.Threads = 0,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """gamma by every estimator with its interval, the recommended one, and a verdict."""
    output = s.Output(json, quiet)
    from slowflow.config import canonical
    from slowflow.remedies.bridge import bridge
    from slowflow.results import RunResult

    measured = RunResult.load(run).measured
    fit = measured.suggest(reference, method="auto" if method == "pilot" else method)
    if method == "pilot":
        settings = _Pilot(budget, features, metric, lr, samples, steps, out, model, data, seed, device, threads)
        fit = settings.run(measured, output).over(fit)
    facts = measured.facts
    family = (facts.get("reopen") or {}).get("family")
    pasted = bridge(fit.gamma, time=time, path=facts["interpolant"], family=family, prediction=facts.get("prediction"))
    say_fit(output, fit)
    output.say(f"in your own loop: {pasted.convention}" + ("" if snippet else "; --snippet prints it"))
    if snippet:
        output.paste("\n".join(["", *(f"# warning: {text}" for text in pasted.warnings), pasted.snippet]))
    output.answer({**canonical(fit), "bridge": pasted._asdict()})
