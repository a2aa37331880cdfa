"""The verbs of durable bodies: steps, signals and children."""
