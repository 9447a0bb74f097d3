"""smartclient: a drop-in httpx client that balances over a service's instances, retries elsewhere and ejects
outliers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from .config import Config, ConfigError, load_config
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
        CallStarted,
        CircuitChanged,
        ConfigRejected,
        DiscoveryFailed,
        DiscoveryRecovered,
        Event,
        InstancesChanged,
        NodeChecked,
        NodeEjected,
        NodeFavoured,
        NodePaused,
        NodeReturned,
        Observer,
        PanicChanged,
        PolicyChanged,
        RetryDenied,
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
    from .reports import AttemptReport, CallReport, Candidate, Why, report
    from .retry.budget import RetryBudget
    from .retry.hedge import Hedge
    from .retry.retry import IDEMPOTENT, Retry
    from .services.call import call
    from .services.status import ClientStatus, InstanceStatus, ServiceStatus
    from .topology.subset import Subset

__version__ = "0.1.0"

# Where each public name is: imported when it is first used, so that a program pays for what it uses.
_WHERE = {
    # clients, and the transports beneath them
    "AsyncBalancedTransport": "client",
    "AsyncClient": "client",
    "BalancedTransport": "client",
    "Client": "client",
    # policies, and what is in them
    "AdaptiveLimit": "limits",
    "Circuit": "limits",
    "HealthCheck": "health.active",
    "Hedge": "retry.hedge",
    "IDEMPOTENT": "retry.retry",
    "Limits": "limits",
    "OutlierDetection": "health.outlier",
    "Policy": "policy",
    "Retry": "retry.retry",
    "RetryBudget": "retry.budget",
    "SlowStart": "health.slow_start",
    "Subset": "topology.subset",
    "Throttle": "limits",
    # one call, and the work it belongs to
    "AttemptReport": "reports",
    "call": "services.call",
    "CallReport": "reports",
    "Candidate": "reports",
    "deadline": "inherited",
    "report": "reports",
    "Why": "reports",
    # instances, and where they come from (also in smartclient.discovery)
    "Cached": "discovery.cached",
    "Consul": "discovery.consul",
    "Discovery": "discovery.base",
    "Dns": "discovery.dns",
    "Environment": "discovery.environment",
    "Etcd": "discovery.etcd",
    "Eureka": "discovery.eureka",
    "Fallback": "discovery.combined",
    "File": "discovery.file",
    "Filter": "discovery.shaped",
    "Function": "discovery.function",
    "Instance": "instance",
    "Kubernetes": "discovery.kubernetes",
    "Listing": "discovery.base",
    "Map": "discovery.shaped",
    "Merge": "discovery.combined",
    "Nacos": "discovery.nacos",
    "PollingDiscovery": "discovery.base",
    "Routed": "discovery.shaped",
    "Static": "discovery.static",
    "Xds": "discovery.xds",
    "ZooKeeper": "discovery.zookeeper",
    # balancers (also in smartclient.balancers)
    "Adaptive": "balancers",
    "Balancer": "balancers",
    "IpHash": "balancers",
    "LeastRequest": "balancers",
    "LoadAware": "balancers",
    "Maglev": "balancers",
    "Memory": "node",
    "Node": "node",
    "Outcome": "node",
    "PeakEwma": "balancers",
    "PickCall": "balancers",
    "Picker": "balancers",
    "PowerOfTwoChoices": "balancers",
    "Random": "balancers",
    "RingHash": "balancers",
    "RoundRobin": "balancers",
    "Sticky": "balancers",
    "WeightedRoundRobin": "balancers",
    # configuration files
    "Config": "config",
    "ConfigError": "config",
    "load_config": "config",
    # what is (`client.status()`)
    "ClientStatus": "services.status",
    "InstanceStatus": "services.status",
    "ServiceStatus": "services.status",
    # events
    "AttemptFinished": "events",
    "AttemptStarted": "events",
    "CallFinished": "events",
    "CallStarted": "events",
    "CircuitChanged": "events",
    "ConfigRejected": "events",
    "DiscoveryFailed": "events",
    "DiscoveryRecovered": "events",
    "Event": "events",
    "InstancesChanged": "events",
    "NodeChecked": "events",
    "NodeEjected": "events",
    "NodeFavoured": "events",
    "NodePaused": "events",
    "NodeReturned": "events",
    "Observer": "events",
    "PanicChanged": "events",
    "PolicyChanged": "events",
    "RetryDenied": "events",
    "RetryScheduled": "events",
    # errors
    "DeadlineExceeded": "errors",
    "NoInstances": "errors",
    "Overloaded": "errors",
}
_PACKAGES = {"balancers", "discovery", "httpx2", "middleware", "prometheus", "status", "testing"}

__all__ = [
    # clients, and the transports beneath them
    "AsyncBalancedTransport",
    "AsyncClient",
    "BalancedTransport",
    "Client",
    # policies, and what is in them
    "AdaptiveLimit",
    "Circuit",
    "HealthCheck",
    "Hedge",
    "IDEMPOTENT",
    "Limits",
    "OutlierDetection",
    "Policy",
    "Retry",
    "RetryBudget",
    "SlowStart",
    "Subset",
    "Throttle",
    # one call, and the work it belongs to
    "AttemptReport",
    "call",
    "CallReport",
    "Candidate",
    "deadline",
    "load_config",
    "report",
    "Why",
    # instances, and where they come from (also in smartclient.discovery)
    "Cached",
    "Consul",
    "Discovery",
    "Dns",
    "Environment",
    "Etcd",
    "Eureka",
    "Fallback",
    "File",
    "Filter",
    "Function",
    "Instance",
    "Kubernetes",
    "Listing",
    "Map",
    "Merge",
    "Nacos",
    "PollingDiscovery",
    "Routed",
    "Static",
    "Xds",
    "ZooKeeper",
    # balancers (also in smartclient.balancers)
    "Adaptive",
    "Balancer",
    "IpHash",
    "LeastRequest",
    "LoadAware",
    "Maglev",
    "Memory",
    "Node",
    "Outcome",
    "PeakEwma",
    "PickCall",
    "Picker",
    "PowerOfTwoChoices",
    "Random",
    "RingHash",
    "RoundRobin",
    "Sticky",
    "WeightedRoundRobin",
    # configuration files
    "Config",
    "ConfigError",
    # what is (`client.status()`)
    "ClientStatus",
    "InstanceStatus",
    "ServiceStatus",
    # events
    "AttemptFinished",
    "AttemptStarted",
    "CallFinished",
    "CallStarted",
    "CircuitChanged",
    "ConfigRejected",
    "DiscoveryFailed",
    "DiscoveryRecovered",
    "Event",
    "InstancesChanged",
    "NodeChecked",
    "NodeEjected",
    "NodeFavoured",
    "NodePaused",
    "NodeReturned",
    "Observer",
    "PanicChanged",
    "PolicyChanged",
    "RetryDenied",
    "RetryScheduled",
    # errors
    "DeadlineExceeded",
    "NoInstances",
    "Overloaded",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = globals()[name] = getattr(import_module(f".{_WHERE[name]}", __name__), name)
        return value
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
