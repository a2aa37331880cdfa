"""The commands of instances, from `enqueue` to retention."""
