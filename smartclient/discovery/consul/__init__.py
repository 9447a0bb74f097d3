"""Consul: the source, and `register` for services that serve."""

from .registration import register
from .source import Consul

__all__ = ["Consul", "register"]
