"""Limits on what a client sends to a service: no more at once than it can handle, no more than it accepts, nothing
while all of it is down.
"""

from .admission import Admission, Refused
from .circuit import Circuit
from .limits import AdaptiveLimit, Limits
from .throttle import Throttle

__all__ = ["AdaptiveLimit", "Admission", "Circuit", "Limits", "Refused", "Throttle"]
