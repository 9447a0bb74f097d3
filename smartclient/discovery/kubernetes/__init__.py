"""Kubernetes: EndpointSlices, listed and watched."""

from .source import Kubernetes

__all__ = ["Kubernetes"]
