"""One call, without I/O: what is to be done next, and when it is over. The way of a request is `flow`."""
