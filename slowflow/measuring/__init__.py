"""Measuring Slow Flow: which ground-truth time a generated state is nearest to, with nulls and intervals."""
