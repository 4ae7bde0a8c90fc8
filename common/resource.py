"""What traces and metrics say of the process they come from.

Names: https://opentelemetry.io/docs/specs/semconv/resource/
"""

from common.cluster import Identity
from common.messages import LOCAL


def resource_attributes(name: str, identity: Identity) -> dict[str, str]:
    """The identity, as far as it is known by now."""
    here = identity.metadata
    google = identity.source == "metadata server"
    known: dict[str, str | None] = {
        "service.name": name,
        "service.version": here.version,
        "cloud.provider": "gcp" if google else None,
        "cloud.platform": "gcp_kubernetes_engine" if google else None,
        "cloud.account.id": identity.project,
        "cloud.region": here.region,
        "cloud.availability_zone": here.zone,
        "host.name": here.host_name,
        "k8s.cluster.name": here.cluster_name,
        "k8s.namespace.name": here.namespace,
        "k8s.node.name": here.node_name,
        "k8s.pod.name": here.pod_name,
    }
    return {key: value for key, value in known.items() if value is not None and value != LOCAL}
