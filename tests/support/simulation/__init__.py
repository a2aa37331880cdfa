"""Random programs under random faults, and the checker that judges what became of them."""
