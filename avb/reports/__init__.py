"""What runs measured: the paper's tables with ours beside them, comparisons, and a page about a run."""
