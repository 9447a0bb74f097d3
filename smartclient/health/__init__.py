"""Which nodes get calls, and how many: outlier detection, checks, pauses, slow start, and our own stalls."""
