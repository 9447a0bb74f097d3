"""xDS: endpoints from a control plane."""

from .source import Xds

__all__ = ["Xds"]
