"""Where a model starts: encoders by name, checks of their files, and first filters of those that start at random."""
