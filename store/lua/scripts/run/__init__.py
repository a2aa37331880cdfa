"""Scripts of running instances: claims and outcomes."""
