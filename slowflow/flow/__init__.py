"""The mathematics of flows: interpolants, grids, samplers, guidance, exact fields and the model record."""
