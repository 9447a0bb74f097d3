"""What xDS messages mean: endpoints (EDS) as instances. Reads `ClusterLoadAssignment`, and reports what it refuses.

1. Endpoints that are HEALTHY or UNKNOWN are called; DEGRADED ones have weight 0: only if there are no others;
   UNHEALTHY, DRAINING and TIMEOUT ones are listed as not healthy: they get no calls, and count among the endpoints of
   their priority, so that it spills over in time (Envoy: `core.HealthStatus`).
2. An endpoint's share is its weight (1 if there is none) within its locality, times the locality's weight among those
   of its priority; without weights of localities, its own weight (Envoy: locality weighted load balancing; gRPC A27).
   A locality without a weight beside others that have one gets no traffic.
3. `drop_overloads`: each category drops its share of the calls that the others left, before they reach any endpoint.
4. `endpoint_stale_after`: without a new assignment within that time, there are no endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..base import Listing

ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
PER = {0: 100.0, 1: 10_000.0, 2: 1_000_000.0}  # FractionalPercent.DenominatorType
DEGRADED = "DEGRADED"
CALLED = {"UNKNOWN", "HEALTHY", DEGRADED}
METADATA = "envoy.lb"


class Assignment(Listing):
    """The endpoints of a cluster. stale_after: seconds for which it is valid; None: until the next one"""

    stale_after: float | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Assignment) and self.stale_after == other.stale_after and super().__eq__(other)

    __hash__ = Listing.__hash__


class Messages:
    """The protocol's messages. Imports what the extra brings."""

    def __init__(self, node: str, node_cluster: str) -> None:
        try:
            import grpc
            from envoy.config.core.v3 import health_check_pb2
            from envoy.config.endpoint.v3 import endpoint_pb2
            from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
            from google.protobuf import json_format
        except ImportError as error:
            raise ImportError(f"Xds needs grpcio and xds-protos: pip install 'smartclient[xds]' ({error})") from None
        self.grpc: Any = grpc
        self.stub: Any = ads_pb2_grpc.AggregatedDiscoveryServiceStub
        self._json: Any = json_format
        self._discovery: Any = discovery_pb2
        self._assignment: Any = endpoint_pb2.ClusterLoadAssignment
        self._status_name: Any = health_check_pb2.HealthStatus.Name
        self._node = {"id": node, "cluster": node_cluster, "user_agent_name": "smartclient"}

    def request(
        self, names: Sequence[str], version: str, nonce: str = "", problem: str | None = None, node: bool = True
    ) -> Any:
        """Requests endpoints, and acknowledges the last answer (ACK); with a problem, refuses it (NACK)."""
        made = self._discovery.DiscoveryRequest(
            version_info=version, response_nonce=nonce, type_url=ENDPOINTS, resource_names=names
        )
        if node:
            made.node.id, made.node.cluster = self._node["id"], self._node["cluster"]
            made.node.user_agent_name = self._node["user_agent_name"]
        if problem is not None:
            made.error_detail.code = self.grpc.StatusCode.INVALID_ARGUMENT.value[0]
            made.error_detail.message = problem[:1000]
        return made

    def as_json(self, message: Any) -> str:
        return str(self._json.MessageToJson(message, preserving_proto_field_name=True, indent=None))

    def from_json(self, content: str) -> Any:
        """Raises ValueError for what is no answer."""
        try:
            return self._json.Parse(content, self._discovery.DiscoveryResponse(), ignore_unknown_fields=True)
        except (self._json.ParseError, RecursionError) as error:
            raise ValueError(f"no discovery response: {str(error)[:200]}") from None

    def assignments(self, response: Any) -> tuple[dict[str, Assignment], str | None]:
        """What an answer says of each cluster; and what is wrong with the answer, None: nothing."""
        found: dict[str, Assignment] = {}
        problem = None
        if response.type_url not in (ENDPOINTS, ""):
            return found, f"expected {ENDPOINTS}, got {response.type_url}"
        for packed in response.resources:
            try:
                one = self._unpacked(packed)
                found[one.cluster_name] = self.assignment(one)
            except (ValueError, TypeError, OverflowError) as error:
                problem = f"{error}"[:200]
        return found, problem

    def assignment(self, one: Any) -> Assignment:
        """A cluster's endpoints as instances' fields; what is no address is refused later on."""
        made = Assignment(self._entries(one))
        kept = 1.0
        for category in one.policy.drop_overloads:
            share = category.drop_percentage.numerator / PER.get(category.drop_percentage.denominator, 100.0)
            kept *= 1.0 - min(share, 1.0)
        made.drop = 1.0 - kept
        if one.policy.HasField("endpoint_stale_after"):
            stale = one.policy.endpoint_stale_after
            made.stale_after = max(0.0, stale.seconds + stale.nanos / 1e9) or None
        return made

    def _unpacked(self, packed: Any) -> Any:
        wrapper = self._discovery.Resource()
        if packed.Is(wrapper.DESCRIPTOR):
            _unpack(packed, wrapper)
            packed = wrapper.resource
        one = self._assignment()
        if not _unpack(packed, one):
            raise ValueError(f"expected a ClusterLoadAssignment, got {packed.type_url!r}")
        if not one.cluster_name:
            raise ValueError("a ClusterLoadAssignment without cluster_name")
        return one

    def _entries(self, one: Any) -> Iterator[Any]:
        weighted = {group.priority for group in one.endpoints if group.HasField("load_balancing_weight")}
        for group in one.endpoints:
            weights: list[tuple[Any, bool, float]] = []
            for endpoint in group.lb_endpoints:
                status = self._status(endpoint)
                weights.append((endpoint, status in CALLED, 0.0 if status == DEGRADED else _weight(endpoint)))
            factor = 1.0
            if group.priority in weighted:
                called = sum(weight for _, healthy, weight in weights if healthy)
                factor = group.load_balancing_weight.value / (called or 1.0)
            for endpoint, healthy, weight in weights:
                yield self._entry(endpoint, group, weight * factor, healthy)

    def _status(self, endpoint: Any) -> str:
        try:
            return str(self._status_name(endpoint.health_status))
        except ValueError:  # one of the future
            return "UNKNOWN"

    def _entry(self, endpoint: Any, group: Any, weight: float, healthy: bool) -> Any:
        address = endpoint.endpoint.address
        if not address.HasField("socket_address"):
            return f"{address.WhichOneof('address') or 'no'} address"  # refused: we cannot call it
        where, locality = address.socket_address, group.locality
        told = {"region": locality.region, "sub_zone": locality.sub_zone, "hostname": endpoint.endpoint.hostname}
        metadata = {name: value for name, value in told.items() if value}
        for name, value in endpoint.metadata.filter_metadata[METADATA].fields.items() \
                if METADATA in endpoint.metadata.filter_metadata else ():  # fmt: skip
            kind = value.WhichOneof("kind")
            if kind in ("string_value", "number_value", "bool_value"):
                metadata[name] = str(getattr(value, kind))
        return {"host": where.address, "port": where.port_value or None, "weight": weight, "priority": group.priority,
                "zone": locality.zone or None, "metadata": metadata, "healthy": healthy}  # fmt: skip


def _weight(endpoint: Any) -> float:
    return float(endpoint.load_balancing_weight.value) if endpoint.HasField("load_balancing_weight") else 1.0


def _unpack(packed: Any, message: Any) -> bool:
    try:
        return bool(packed.Unpack(message))
    except Exception as error:  # protobuf's DecodeError, which differs from version to version
        raise ValueError(f"{packed.type_url}: {str(error)[:100]}") from None
