"""Engine B: the contract over any transactional key-value store, and its drivers."""
