"""Tables and pictures of what runs measured: the paper's five with ours beside them, comparisons, and a page for a run."""
