"""Whether what an engine has stored fits together: each index, queue and count against the records."""
