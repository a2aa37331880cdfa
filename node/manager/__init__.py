"""The manager's verbs as a running node serves them."""
