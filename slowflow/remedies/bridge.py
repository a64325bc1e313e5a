"""The bridge to other trainers: MixFlow in seven lines of a user's own loop, in that loop's time.

Three conventions of time are common, and the same gamma means something else in each if it is pasted blindly:

    forward   t = 0 noise, t = 1 data; the network returns data - noise          SiT
    reversed  t = 1 noise, t = 0 data; the network returns noise - data          REPA, RAE, SD3, Flux
    index     k = K - 1 noise ... 0 almost data; the network returns the noise   DDPM, DiT

On curved paths the velocity stands in the place of data - noise, and a network may return another quantity in any of them.

SlowFlow's gamma is a share of t in the first: m ~ U[(1-gamma) t, t] is noisier than t. In reversed time s = 1 - t that is
m_s ~ U[s, s + gamma (1 - s)], never a share of s.
"""

from __future__ import annotations

from typing import NamedTuple

from slowflow.errors import InputError

TIMES = ("forward", "reversed", "index")
BY_FAMILY = {
    "repa": "reversed",
    "rae": "reversed",
    "sd3": "reversed",
    "flowmatch": "reversed",
    "dit": "index",
    "ddpm": "index",
}
SHIFTED = ("rae", "sd3", "flowmatch")


class Bridge(NamedTuple):
    """What a user pastes.

    gamma: the width. time: convention of the loop. convention: one sentence on time. snippet: seven lines of Python that
    use the loop's own data, net, label, generator and optimizer. warnings: what would go wrong otherwise.
    """

    gamma: float
    time: str
    convention: str
    snippet: str
    warnings: tuple[str, ...]


LABELS = {"forward": "t", "reversed": "1 - t", "index": "(1000 * (1 - t)).round().long() - 1"}
CONVENTIONS = {
    "forward": "your loop runs as SlowFlow does: t = 0 is noise, t = 1 is data, the network returns {what}",
    "reversed": "your loop runs the other way: its time is 1 - t (1 = noise) and its network returns {what}",
    "index": "your loop counts noise levels: index 1000 (1 - t) - 1 (999 = noise), and its network returns {what}",
}
RETURNS = {"noise": "the noise", "data": "the data", "score": "the score", "v": "v = alpha noise - sigma data"}
WARNINGS = {
    "reversed": "time runs the other way: let SlowFlow draw t and hand the network 1 - t, as below; a gamma applied to your own "
    "time s = 1 - t would slow the wrong end (in s the slowed input lies in [s, s + gamma (1 - s)])",
    "index": "time runs the other way and in whole steps: hand the network the index, as below; the table is DDPM's linear one, "
    "for another pass interpolant=slowflow.flow.table.Table(alphas_cumprod) and its number of levels",
}


def bridge(
    gamma: float, *, time: str = "auto", path: str = "linear", family: str | None = None, prediction: str | None = None
) -> Bridge:
    """MixFlow for a loop that is not SlowFlow's.

    Args:
        gamma: width of the slowed interval.
        time: `forward`, `reversed` or `index`; `auto` takes that of the family.
        path: the interpolant gamma was measured on.
        family: who opened the model.
        prediction: what the network returns: velocity, noise, data, score or v; None = the velocity, on a table the noise.

    Raises:
        InputError: an unknown convention or prediction.
    """
    table = path.startswith("table")
    if time == "auto":
        time = "index" if table else BY_FAMILY.get(family or "", "forward")
        time = "forward" if time == "index" and not table else time
    if time not in TIMES:
        raise InputError(f"time is '{time}', expected auto, {', '.join(TIMES)}")
    if prediction not in (None, "velocity", *RETURNS):
        raise InputError(f"prediction is '{prediction}', expected velocity, {', '.join(RETURNS)}")
    if table and prediction == "velocity":
        raise InputError("a table of noise levels has no velocity; its network returns noise, data, score or v")
    if time == "index":
        kind = (prediction if table else None) or "noise"
        more = f', interpolant="table", prediction="{kind}", levels=1000'
    else:
        kind = prediction or "velocity"
        more = "" if path == "linear" or table else f', interpolant="{path}"'
        more += "" if kind == "velocity" else f', prediction="{kind}"'
    sign = "+ target" if time == "reversed" and kind == "velocity" else "- target"
    lines = (
        "import slowflow, torch",
        f"remedy = slowflow.MixFlow(gamma={gamma:.3f}{more})",
        "noise = torch.randn_like(data)",
        "state, t, target = remedy.pair(noise, data, generator)  # t = 0 noise, t = 1 data",
        f"loss = (net(state, {LABELS[time]}, label) {sign}).square().mean()",
        "loss.backward()",
        "optimizer.step()",
    )
    warnings = [WARNINGS[time]] if time in WARNINGS else []
    if (time == "index") != table:
        warnings.append(
            f"gamma was measured on the path '{path}'; as a share of time it does not carry over to another path or clock"
        )
    if family in SHIFTED:
        warnings.append(
            "if your loop shifts its times, pass the same shift=... to MixFlow: gamma is a share of shifted time"
        )
    convention = CONVENTIONS[time].format(what=_returned(kind, time, path))
    return Bridge(gamma, time, convention, "\n".join(lines), tuple(warnings))


def _returned(kind: str, time: str, path: str) -> str:
    """What the loop's network returns, in words."""
    if kind != "velocity":
        return RETURNS[kind]
    if path == "linear":
        return "noise - data" if time == "reversed" else "data - noise"
    return f"the velocity of the {path} path, d state / d {'(1 - t)' if time == 'reversed' else 't'}"
