"""Evaluation: how good the samples are, in fidelity and in coverage, with intervals and at equal n."""
