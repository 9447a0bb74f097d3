"""smartclient: a drop-in httpx client that balances over a service's instances, retries elsewhere and ejects
outliers.
"""

from .balancers import (
    Balancer,
    LeastRequest,
    PeakEwma,
    PickCall,
    Picker,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
)
from .call import call
from .client import AsyncBalancedTransport, AsyncClient, BalancedTransport, Client
from .discovery import Consul, Discovery, Function, PollingDiscovery, Static
from .errors import DeadlineExceeded, NoInstances, Overloaded
from .events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    DiscoveryFailed,
    Event,
    InstancesChanged,
    NodeEjected,
    NodeReturned,
    RetryScheduled,
)
from .health.outlier import OutlierDetection
from .instance import Instance
from .node import Memory, Node, Outcome
from .policy import Policy
from .report import AttemptReport, CallReport, report
from .retry.budget import RetryBudget
from .retry.policy import IDEMPOTENT, Retry

__version__ = "0.1.0"

__all__ = [
    "IDEMPOTENT",
    "AsyncBalancedTransport",
    "AsyncClient",
    "AttemptFinished",
    "AttemptReport",
    "AttemptStarted",
    "BalancedTransport",
    "Balancer",
    "CallFinished",
    "CallReport",
    "Client",
    "Consul",
    "DeadlineExceeded",
    "Discovery",
    "DiscoveryFailed",
    "Event",
    "Function",
    "Instance",
    "InstancesChanged",
    "LeastRequest",
    "Memory",
    "NoInstances",
    "Node",
    "NodeEjected",
    "NodeReturned",
    "Outcome",
    "OutlierDetection",
    "Overloaded",
    "PeakEwma",
    "PickCall",
    "Picker",
    "Policy",
    "PollingDiscovery",
    "PowerOfTwoChoices",
    "Random",
    "Retry",
    "RetryBudget",
    "RetryScheduled",
    "RoundRobin",
    "Static",
    "__version__",
    "call",
    "report",
]
