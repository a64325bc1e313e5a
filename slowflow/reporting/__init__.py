"""Reports: one self-contained page made from finished runs only."""
