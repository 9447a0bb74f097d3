"""Who may get a call, and how many: outlier detection, checks, pauses, slow start; and what stalls of ours explain."""
