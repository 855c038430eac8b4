"""What the operators' kinds may have, as far as our manifests use it: an unknown field is an error, as in a cluster.

Sources: the API references of the Gateway API (v1), its inference extension (v1), the Prometheus operator (v1),
KEDA (v1alpha1) and KubeRay (v1).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(h|m|s|ms))+$"}
NUMBER: Schema = {"type": "integer", "minimum": 0}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these fields and no others."""
    known = required | (optional or {})
    return {
        "type": "object",
        "properties": known,
        "required": sorted(required),
        "additionalProperties": False,
    }


def several(item: Schema) -> Schema:
    """A list of at least one."""
    return {"type": "array", "items": item, "minItems": 1}


def document(version: str, kind: str, spec: Schema) -> Schema:
    """A whole manifest."""
    metadata = fields({"name": TEXT, "labels": LABELS}, {"annotations": LABELS})
    return fields(
        {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
    )


_GROUP = "inference.networking.k8s.io"
_POOL_REF = fields({"group": {"const": _GROUP}, "kind": {"const": "InferencePool"}, "name": TEXT})
_POOL = fields(
    {
        "selector": fields({"matchLabels": LABELS}),
        "targetPorts": several(fields({"number": NUMBER})),
        "endpointPickerRef": fields(
            {"name": TEXT, "port": fields({"number": NUMBER})},
            {"failureMode": {"enum": ["FailOpen", "FailClose"]}},
        ),
    }
)
_ROUTE = fields(
    {
        "parentRefs": several(fields({"name": TEXT}, {"namespace": TEXT, "sectionName": TEXT})),
        "hostnames": several(TEXT),
        "rules": several(
            fields(
                {
                    "matches": several(
                        fields(
                            {
                                "path": fields(
                                    {"type": {"enum": ["Exact", "PathPrefix"]}, "value": {"pattern": "^/"}}
                                )
                            }
                        )
                    ),
                    "timeouts": fields({"request": DURATION}, {"backendRequest": DURATION}),
                    "backendRefs": several({"oneOf": [fields({"name": TEXT, "port": NUMBER}), _POOL_REF]}),
                }
            )
        ),
    }
)
_MONITOR = fields(
    {
        "jobLabel": TEXT,
        "selector": fields({"matchLabels": LABELS}),
        "endpoints": several(
            fields({"port": TEXT, "path": TEXT, "interval": DURATION, "scrapeTimeout": DURATION})
        ),
    }
)
_RECORD = fields({"record": TEXT, "expr": TEXT})
_ALERT = fields({"alert": TEXT, "expr": TEXT, "labels": LABELS, "annotations": LABELS}, {"for": DURATION})
_RULES = fields(
    {
        "groups": several(
            fields({"name": TEXT, "rules": several({"oneOf": [_RECORD, _ALERT]})}, {"interval": DURATION})
        )
    }
)
_TRIGGER = fields(
    {
        "type": {"const": "prometheus"},
        "name": TEXT,
        "metricType": {"enum": ["AverageValue", "Value"]},
        # KEDA takes text only here.
        "metadata": fields(
            {
                "serverAddress": {"pattern": "^https?://"},
                "query": TEXT,
                "threshold": {"pattern": r"^[0-9.]+$"},
            },
            {"ignoreNullValues": {"enum": ["true", "false"]}},
        ),
    }
)
_SCALED = fields(
    {
        "scaleTargetRef": fields({"name": TEXT}, {"kind": TEXT}),
        "minReplicaCount": NUMBER,
        "maxReplicaCount": NUMBER,
        "triggers": several(_TRIGGER),
        # `behavior` is Kubernetes's own; the test has it checked as part of a HorizontalPodAutoscaler.
        "advanced": fields({"horizontalPodAutoscalerConfig": fields({"behavior": {"type": "object"}})}),
    },
    {"pollingInterval": NUMBER},
)

# A pod's template is Kubernetes's own; the test has it checked as a Pod.
_TEMPLATE = fields({"metadata": fields({"labels": LABELS}), "spec": {"type": "object"}})
_RAY = fields(
    {
        "rayVersion": TEXT,
        "headGroupSpec": fields({"rayStartParams": LABELS, "template": _TEMPLATE}),
        "workerGroupSpecs": several(
            fields(
                {
                    "groupName": TEXT,
                    "replicas": NUMBER,
                    "minReplicas": NUMBER,
                    "maxReplicas": NUMBER,
                    "rayStartParams": LABELS,
                    "template": _TEMPLATE,
                }
            )
        ),
    },
    {
        "gcsFaultToleranceOptions": fields(
            {"redisAddress": TEXT},
            {"redisPassword": fields({"valueFrom": {"type": "object"}}), "externalStorageNamespace": TEXT},
        )
    },
)

SCHEMAS: dict[str, Schema] = {
    "RayCluster": document("ray.io/v1", "RayCluster", _RAY),
    "HTTPRoute": document("gateway.networking.k8s.io/v1", "HTTPRoute", _ROUTE),
    "InferencePool": document(f"{_GROUP}/v1", "InferencePool", _POOL),
    "ServiceMonitor": document("monitoring.coreos.com/v1", "ServiceMonitor", _MONITOR),
    "PrometheusRule": document("monitoring.coreos.com/v1", "PrometheusRule", _RULES),
    "ScaledObject": document("keda.sh/v1alpha1", "ScaledObject", _SCALED),
}
