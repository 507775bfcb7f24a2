"""An autoscaler and its server, read from what `helm template` has rendered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from csm_model.errors import InputError
from csm_scaling import hpa, keda
from csm_scaling.pods import Server
from csm_scaling.quantity import thousandths
from csm_scaling.signals import Signal, signal_of, signal_of_name
from csm_serving.settings import ServingSettings

KINDS: Final = ("ScaledObject", "HorizontalPodAutoscaler")
_GRACE_S: Final = 30
"""`terminationGracePeriodSeconds` where a pod has none."""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """What a simulation needs of a manifest."""

    name: str
    """Of the autoscaler."""
    hpa: hpa.HpaSpec
    server: Server
    signals: tuple[Signal, ...]
    """What each of the autoscaler's metrics measures."""
    queries: tuple[str, ...] = ()
    """The triggers' queries, as they stand; none without KEDA."""
    keda: keda.KedaSpec | None = None


def read_manifest(text: str, *, start_s: float, name: str | None = None, slots: int | None = None) -> Scaled:
    """Reads the objects of a rendered chart.

    Args:
        text: YAML documents.
        start_s: seconds that a pod takes until it is ready, which no manifest says.
        name: of the autoscaler, where there are several.
        slots: in place of the Deployment's.

    Raises:
        InputError: not YAML, no autoscaler, no Deployment for it, a part that is not understood.
    """
    try:
        objects = [value for value in yaml.safe_load_all(text) if isinstance(value, dict)]
    except yaml.YAMLError as error:
        raise InputError(f"the manifest is not YAML: {' '.join(str(error).split())}") from None
    found = {_name(value): value for value in objects if value.get("kind") in KINDS}
    if name is None and len(found) > 1:
        raise InputError(f"the manifest holds several autoscalers: {', '.join(sorted(found))}; name one with --name")
    if not found or (name is not None and name not in found):
        what = f"no autoscaler {name!r}" if name else f"neither a {' nor a '.join(KINDS)}"
        raise InputError(f"the manifest holds {what}; give what `helm template` prints, autoscaling on")
    scaler = found[name] if name else next(iter(found.values()))
    try:
        target = scaler["spec"]["scaleTargetRef"]["name"]
        deployment = next(
            (value for value in objects if value.get("kind") == "Deployment" and _name(value) == target), None
        )
        if deployment is None:
            raise InputError(f"the manifest holds no Deployment {target!r}, which {_name(scaler)} scales")
        server = _server(deployment, objects, start_s, slots)
        if scaler["kind"] == "ScaledObject":
            spec = _keda(scaler["spec"])
            return Scaled(
                name=_name(scaler),
                hpa=spec.hpa(),
                server=server,
                signals=tuple(signal_of(trigger.query) for trigger in spec.triggers),
                queries=tuple(trigger.query for trigger in spec.triggers),
                keda=spec,
            )
        given = _hpa(scaler["spec"])
        return Scaled(
            name=_name(scaler),
            hpa=given,
            server=server,
            signals=tuple(signal_of_name(metric.name) for metric in given.metrics),
        )
    except KeyError as error:
        raise InputError(f"{scaler['kind']} {_name(scaler)}: {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{scaler['kind']} {_name(scaler)}: not as its schema has it ({error})") from None


def _number(value: Any) -> float:
    """A number that is finite; raises `ValueError` for another."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number


def _name(value: Mapping[str, Any]) -> str:
    return str(value.get("metadata", {}).get("name", ""))


def _server(
    deployment: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], start_s: float, slots: int | None
) -> Server:
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    settings = ServingSettings.model_fields
    said = dict(_environment(container, objects))

    def setting(field: str) -> float:
        return _number(said.get(f"CSM_SERVING_{field.upper()}", settings[field].default))

    return Server(
        slots=slots if slots is not None else int(setting("slots")),
        queue=int(setting("queue")),
        start_s=start_s,
        pre_stop_s=_pre_stop_s(container.get("lifecycle", {}).get("preStop", {})),
        exit_timeout_s=setting("exit_timeout_s"),
        grace_s=_number(pod.get("terminationGracePeriodSeconds", _GRACE_S)),
    )


def _environment(container: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Its variables with values in the manifest, those of ConfigMaps first."""
    for source in container.get("envFrom", ()):
        wanted = source.get("configMapRef", {}).get("name")
        for value in objects:
            if value.get("kind") == "ConfigMap" and _name(value) == wanted:
                yield from value.get("data", {}).items()
    for entry in container.get("env", ()):
        if "value" in entry:
            yield entry["name"], entry["value"]


def _pre_stop_s(hook: Mapping[str, Any]) -> float:
    """Seconds of a `preStop` that sleeps; 0 without one."""
    if not hook:
        return 0.0
    if "sleep" in hook:
        return _number(hook["sleep"]["seconds"])
    command = hook.get("exec", {}).get("command", [])
    if len(command) == 2 and command[0].rpartition("/")[2] == "sleep":
        return _number(command[1])
    raise InputError(f"preStop {dict(hook)}: must be a sleep, {{sleep: {{seconds: N}}}}")


def _keda(spec: Mapping[str, Any]) -> keda.KedaSpec:
    advanced = spec.get("advanced", {})
    for place, name in ((advanced, "scalingModifiers"), (spec, "idleReplicaCount")):
        if name in place:
            raise InputError(f"ScaledObject: {name} is not simulated; leave it out")
    up, down = _behaviour(advanced.get("horizontalPodAutoscalerConfig", {}).get("behavior"))
    fallback = spec.get("fallback")
    return keda.KedaSpec(
        triggers=tuple(_trigger(trigger) for trigger in spec["triggers"]),
        min_replicas=int(spec.get("minReplicaCount", 0)),
        max_replicas=int(spec.get("maxReplicaCount", keda.MAX_REPLICAS)),
        polling_s=int(spec.get("pollingInterval", keda.POLLING_S)),
        cooldown_s=int(spec.get("cooldownPeriod", keda.COOLDOWN_S)),
        fallback=None
        if fallback is None
        else keda.Fallback(
            failures=int(fallback["failureThreshold"]),
            replicas=int(fallback["replicas"]),
            behaviour=fallback.get("behavior", "static"),
        ),
        up=up,
        down=down,
    )


def _trigger(trigger: Mapping[str, Any]) -> keda.ScaleTrigger:
    if trigger["type"] != "prometheus" or trigger.get("useCachedMetrics"):
        raise InputError(f"trigger of type {trigger['type']!r}: only prometheus without useCachedMetrics is simulated")
    given = trigger["metadata"]
    return keda.ScaleTrigger(
        name=str(trigger.get("name", "")),
        query=given["query"],
        threshold=thousandths(given["threshold"]),
        kind=trigger.get("metricType", "AverageValue"),
        activation=_number(given.get("activationThreshold", 0)),
        ignore_nulls=str(given.get("ignoreNullValues", "true")).lower() == "true",
    )


def _hpa(spec: Mapping[str, Any]) -> hpa.HpaSpec:
    up, down = _behaviour(spec.get("behavior"))
    return hpa.HpaSpec(
        min_replicas=int(spec.get("minReplicas", 1)),
        max_replicas=int(spec["maxReplicas"]),
        metrics=tuple(_metric(metric) for metric in spec["metrics"]),
        up=up,
        down=down,
    )


def _metric(metric: Mapping[str, Any]) -> hpa.Metric:
    kind = metric["type"]
    if kind not in ("External", "Pods"):
        raise InputError(f"HorizontalPodAutoscaler: a metric of type {kind} is not simulated; use External or Pods")
    given = metric[kind.lower()]
    target = given["target"]
    value = target["averageValue"] if target["type"] == "AverageValue" else target["value"]
    return hpa.Metric(name=given["metric"]["name"], target=thousandths(value), source=kind, kind=target["type"])


def _behaviour(given: Mapping[str, Any] | None) -> tuple[hpa.ScalingRules | None, hpa.ScalingRules | None]:
    """Both directions with the defaults for what is not said; None and None without any."""
    if not given:
        return None, None
    return _rules(given.get("scaleUp", {}), hpa.UP), _rules(given.get("scaleDown", {}), hpa.DOWN)


def _rules(given: Mapping[str, Any], default: hpa.ScalingRules) -> hpa.ScalingRules:
    policies = given.get("policies")
    return hpa.ScalingRules(
        policies=default.policies
        if policies is None
        else tuple(
            hpa.ScalingPolicy(kind=policy["type"], value=int(policy["value"]), period_s=int(policy["periodSeconds"]))
            for policy in policies
        ),
        select=given.get("selectPolicy", default.select),
        window_s=int(given.get("stabilizationWindowSeconds", default.window_s)),
        tolerance=_number(given["tolerance"]) if "tolerance" in given else default.tolerance,
    )
