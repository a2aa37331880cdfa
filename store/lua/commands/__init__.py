"""The commands of the contract, each a call of one script, and the conversion of values."""
