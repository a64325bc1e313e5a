"""BibTeX of the methods that a result used, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slowflow.results import RunResult


@dataclass(frozen=True)
class Citation:
    """A source and when it was used.

    Args:
        name: what it is cited for.
        key, kind, fields: of the BibTeX entry.
        used: whether a result made use of it.
    """

    name: str
    key: str
    kind: str
    fields: dict[str, str]
    used: Callable[[RunResult], bool]

    @property
    def bibtex(self) -> str:
        """The entry, a field a line."""
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{body}\n}}"


def citations(result: RunResult) -> list[Citation]:
    """The sources this result rests on."""
    return [one for one in SOURCES if one.used(result)]


def _measured(result: RunResult) -> bool:
    return bool(result.measurements)


def _sampler(*names: str) -> Callable[[RunResult], bool]:
    def used(result: RunResult) -> bool:
        asked = [run.config.get("probe", {}) for run in result.measurements.values()]
        asked += [run.config.get("sampling", {}) for run in result.evaluations.values()]
        return any(one.get("sampler") in names for one in asked)

    return used


def _reference(*names: str) -> Callable[[RunResult], bool]:
    return lambda result: any(
        {*names} & {*run.config["probe"]["references"], *run.config["probe"]["measures"]}
        for run in result.measurements.values()
    )


def _metric(*names: str) -> Callable[[RunResult], bool]:
    return lambda result: any({*names} & {*run.metrics} for run in result.evaluations.values())


def _guided(result: RunResult) -> bool:
    return any(float(run.config["probe"]["guidance"]) != 1.0 for run in result.measurements.values())


def _searched(result: RunResult) -> bool:
    return any("nearest" in run.facts["search"] for run in result.measurements.values())


SOURCES = (
    Citation(
        "MixFlow, the slowed timestep and gamma",
        "mixflow",
        "inproceedings",
        {
            "title": "MixFlow Training: Alleviating Exposure Bias with Slowed Interpolation Mixture",
            "author": "Li, Hui and Lyu, Jiayue and Wang, Fu-Yun and Cheng, Kaihui and Zhu, Siyu and Wang, Jingdong",
            "booktitle": "CVPR",
            "year": "2026",
            "note": "arXiv:2512.19311",
        },
        lambda result: True,
    ),
    Citation(
        "interpolants and their samplers (SiT)",
        "sit",
        "inproceedings",
        {
            "title": "SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers",
            "author": "Ma, Nanye and others",
            "booktitle": "ECCV",
            "year": "2024",
            "note": "arXiv:2401.08740",
        },
        _measured,
    ),
    Citation(
        "nearest-neighbour search (Faiss)",
        "faiss",
        "misc",
        {
            "title": "The Faiss library",
            "author": "Douze, Matthijs and others",
            "year": "2024",
            "note": "arXiv:2401.08281",
        },
        _searched,
    ),
    Citation(
        "Heun's method for diffusion sampling",
        "edm",
        "inproceedings",
        {
            "title": "Elucidating the Design Space of Diffusion-Based Generative Models",
            "author": "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
            "booktitle": "NeurIPS",
            "year": "2022",
            "note": "arXiv:2206.00364",
        },
        _sampler("heun", "heun-last-euler"),
    ),
    Citation(
        "DDIM (the sampler recombine)",
        "ddim",
        "inproceedings",
        {
            "title": "Denoising Diffusion Implicit Models",
            "author": "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
            "booktitle": "ICLR",
            "year": "2021",
            "note": "arXiv:2010.02502",
        },
        _sampler("recombine", "recombine-clipped"),
    ),
    Citation(
        "classifier-free guidance",
        "cfg",
        "misc",
        {
            "title": "Classifier-Free Diffusion Guidance",
            "author": "Ho, Jonathan and Salimans, Tim",
            "year": "2022",
            "note": "arXiv:2207.12598",
        },
        _guided,
    ),
    Citation(
        "Time-Shift Sampler (the reference timeshift)",
        "timeshift",
        "inproceedings",
        {
            "title": "Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps",
            "author": "Li, Mingxiao and others",
            "booktitle": "ICLR",
            "year": "2024",
            "note": "arXiv:2305.15583",
        },
        _reference("timeshift", "timeshift-corrected"),
    ),
    Citation(
        "Epsilon Scaling (the measures norms and delta)",
        "epsilonscaling",
        "inproceedings",
        {
            "title": "Elucidating the Exposure Bias in Diffusion Models",
            "author": "Ning, Mang and others",
            "booktitle": "ICLR",
            "year": "2024",
            "note": "arXiv:2308.15321",
        },
        _reference("norms", "delta"),
    ),
    Citation(
        "Frechet distance",
        "fid",
        "inproceedings",
        {
            "title": "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
            "author": "Heusel, Martin and others",
            "booktitle": "NeurIPS",
            "year": "2017",
            "note": "arXiv:1706.08500",
        },
        _metric("fd"),
    ),
    Citation(
        "density and coverage",
        "prdc",
        "inproceedings",
        {
            "title": "Reliable Fidelity and Diversity Metrics for Generative Models",
            "author": "Naeem, Muhammad Ferjad and others",
            "booktitle": "ICML",
            "year": "2020",
            "note": "arXiv:2002.09797",
        },
        _metric("density", "coverage"),
    ),
)
