"""Helpers for all parts, which depend on none of them: waiting, event loops, checks of settings, untrusted text."""
