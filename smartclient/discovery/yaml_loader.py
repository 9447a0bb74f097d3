"""A loader for untrusted YAML: no aliases (a few lines can expand to gigabytes), and bounded numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..support.untrusted import MOST_DIGITS, whole_number

LONGEST = 40  # characters of a number that is not written in decimal digits


@cache
def bounded(yaml: Any) -> Any:
    """A loader for `yaml.load`. Raises yaml.YAMLError for an alias."""

    class Bounded(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.composer.ComposerError(
                    None, None, f"aliases (*{event.anchor}) are not read", event.start_mark
                )
            return super().compose_node(parent, index)

        def whole(self, node: Any) -> Any:
            written = self.construct_scalar(node)
            number = whole_number(written)
            if number is None and len(written) > LONGEST:  # 1:30:00, 0x…
                raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
            # Others: 0x1f, 0o17, 1_000, 1:30.
            return number if number is not None and len(written) > MOST_DIGITS else self.construct_yaml_int(node)

    Bounded.add_constructor("tag:yaml.org,2002:int", Bounded.whole)
    return Bounded
