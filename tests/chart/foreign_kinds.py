"""Definitions of the kinds of other projects that the chart can render (CloudNativePG, KEDA, Prometheus Operator).

They exist and take anything: with them the API server accepts a whole rendering, and finds every fault but those inside
the specs of these kinds.
"""

import json

FOREIGN = {
    "clusters.postgresql.cnpg.io": ("v1", "Cluster"),
    "scaledobjects.keda.sh": ("v1alpha1", "ScaledObject"),
    "triggerauthentications.keda.sh": ("v1alpha1", "TriggerAuthentication"),
    "servicemonitors.monitoring.coreos.com": ("v1", "ServiceMonitor"),
    "prometheusrules.monitoring.coreos.com": ("v1", "PrometheusRule"),
}


def definitions() -> str:
    """Return them for `kubectl apply`."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [_definition(name) for name in FOREIGN]})


def _definition(name: str) -> dict[str, object]:
    version, kind = FOREIGN[name]
    plural, _, group = name.partition(".")
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # The API server wants a reason for a kind in a group that ends like this one.
        "metadata": {"name": name, "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"}},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [
                {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    }
