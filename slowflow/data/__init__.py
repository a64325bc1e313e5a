"""Ground truth: image sets, latents and the bank that the `nearest` reference searches."""
