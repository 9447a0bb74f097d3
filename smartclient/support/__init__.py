"""What any part may use, and what knows of none: waiting, event loops, checks of settings, untrusted text."""
