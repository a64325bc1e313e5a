"""The speed suite: one idea a file, every number a ratio within one run, beside its bar and its floor."""
