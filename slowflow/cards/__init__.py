"""Bundled cards: one folder a model or classifier, with weights, recipe and what was measured of it."""
