"""smartclient: a drop-in httpx client that balances over a service's instances, retries elsewhere and ejects
outliers.
"""

from .balancers import (
    Adaptive,
    Balancer,
    IpHash,
    LeastRequest,
    LoadAware,
    Maglev,
    PeakEwma,
    PickCall,
    Picker,
    PowerOfTwoChoices,
    Random,
    RingHash,
    RoundRobin,
    Sticky,
    WeightedRoundRobin,
)
from .client import AsyncBalancedTransport, AsyncClient, BalancedTransport, Client
from .discovery import (
    Cached,
    Consul,
    Discovery,
    Dns,
    Environment,
    Etcd,
    Eureka,
    Fallback,
    File,
    Filter,
    Function,
    Kubernetes,
    Listing,
    Map,
    Merge,
    Nacos,
    PollingDiscovery,
    Routed,
    Static,
    Xds,
    ZooKeeper,
)
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
from .health.active import HealthCheck
from .health.outlier import OutlierDetection
from .health.slow_start import SlowStart
from .inherited import deadline
from .instance import Instance
from .limits import AdaptiveLimit, Circuit, Limits, Throttle
from .node import Memory, Node, Outcome
from .policy import Policy
from .reports import AttemptReport, CallReport, report
from .retry.budget import RetryBudget
from .retry.hedge import Hedge
from .retry.retry import IDEMPOTENT, Retry
from .services.call import call
from .topology.subset import Subset

__version__ = "0.1.0"

__all__ = [
    "IDEMPOTENT",
    "Adaptive",
    "AdaptiveLimit",
    "AsyncBalancedTransport",
    "AsyncClient",
    "AttemptFinished",
    "AttemptReport",
    "AttemptStarted",
    "BalancedTransport",
    "Balancer",
    "Cached",
    "CallFinished",
    "CallReport",
    "Circuit",
    "Client",
    "Consul",
    "DeadlineExceeded",
    "Discovery",
    "DiscoveryFailed",
    "Dns",
    "Environment",
    "Etcd",
    "Eureka",
    "Event",
    "Fallback",
    "File",
    "Filter",
    "Function",
    "HealthCheck",
    "Hedge",
    "Instance",
    "IpHash",
    "Kubernetes",
    "Limits",
    "LoadAware",
    "Maglev",
    "Listing",
    "Map",
    "Merge",
    "InstancesChanged",
    "LeastRequest",
    "Memory",
    "Nacos",
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
    "RingHash",
    "RoundRobin",
    "Routed",
    "SlowStart",
    "Sticky",
    "Subset",
    "Throttle",
    "WeightedRoundRobin",
    "Static",
    "__version__",
    "call",
    "deadline",
    "report",
    "Xds",
    "ZooKeeper",
]
