"""Who may get a call: outlier detection on real traffic."""
