"""BalancedTransport and AsyncBalancedTransport: the two drivers of the flow."""
