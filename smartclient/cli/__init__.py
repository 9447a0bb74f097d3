"""The command line: `smartclient demo | resolve | call | simulate`."""
