"""The parts of one run: the model, its batches and loss, checkpoints, and the final scores."""
