"""The connections of a node: kept, taken newest first, given back, closed."""
