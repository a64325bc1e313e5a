"""Training: one loop for pretraining a bundled-size model and for post-training any model with a remedy."""
