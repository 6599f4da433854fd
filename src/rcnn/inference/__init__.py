"""What a trained detector does without a trainer: checkpoints, prediction, compression."""
