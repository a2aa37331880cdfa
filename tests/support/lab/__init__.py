"""The lab: node processes and real servers under faults, and a checker of what they left behind."""
