"""What a client does not ask of a service: more at once than it bears, more than it accepts, anything while all of it
is down.
"""

from .admission import Admission, Refused
from .circuit import Circuit
from .limits import AdaptiveLimit, Limits
from .throttle import Throttle

__all__ = ["AdaptiveLimit", "Admission", "Circuit", "Limits", "Refused", "Throttle"]
