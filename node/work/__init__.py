"""From a claim to its commit: the claim loop, the workers, one run, and the outcome."""
