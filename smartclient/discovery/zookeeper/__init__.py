"""ZooKeeper: Curator's layout, watched; and `register` for services that serve."""

from .source import ZooKeeper

__all__ = ["ZooKeeper"]
