"""Values that all layers share: jobs, records, policies, times, errors, and how each of them is encoded."""
