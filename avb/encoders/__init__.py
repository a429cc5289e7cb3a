"""Where a model starts: encoders by name, checks of their files, and filters for those that start from random weights."""
