"""One run: the model, its batches and their loss, checkpoints, and the scores at the end."""
