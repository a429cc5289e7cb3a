"""Reports of measurements: the paper's tables beside ours, comparisons, and a page about a run."""
