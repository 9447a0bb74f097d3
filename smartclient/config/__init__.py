"""The policy file: policies of services in YAML, TOML or JSON, checked whole. See examples/configuration."""

from .config import Config, ConfigError, load_config
from .schema import schema

__all__ = ["Config", "ConfigError", "load_config", "schema"]
