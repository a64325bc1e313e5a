"""Studies: many post-trainings under one protocol, as one resumable folder."""
