"""Files: atomic writes, checkpoints, manifests and shards of a run folder."""
