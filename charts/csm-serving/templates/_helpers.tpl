{{/*
Beginning of every object's name: the release's with "-serving" behind it, so that no other release has it. Short enough for
what follows it, and for "keda-hpa-" before it.
*/}}
{{- define "csm-serving.name" -}}
{{- .Values.fullnameOverride | default (printf "%s-serving" (include "csm-serving.unique" (dict "root" . "length" 36))) -}}
{{- end }}

{{/* Labels that all pods of the release are selected by. */}}
{{- define "csm-serving.selector" -}}
app.kubernetes.io/name: csm-serving
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of every object, but for the user's. */}}
{{- define "csm-serving.own-labels" -}}
{{ include "csm-serving.selector" . }}
app.kubernetes.io/part-of: csm-foundry
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "csm-serving.labels" -}}
{{ include "csm-serving.map" (dict "own" (include "csm-serving.own-labels" .) "more" .Values.commonLabels "path" "commonLabels") }}
{{- end }}

{{/* Labels of an object of one track, with what the track serves where `full`. Takes a dict with root, track and full. */}}
{{- define "csm-serving.labels-of-track" -}}
{{- $own := printf "%s\ncsm.foundry/track: %s" (include "csm-serving.own-labels" .root) .track.track -}}
{{- if .full -}}{{- $own = printf "%s\n%s" (include "csm-serving.own-labels" .root) (include "csm-serving.track-labels" .) -}}{{- end -}}
{{ include "csm-serving.map" (dict "own" $own "more" .root.Values.commonLabels "path" "commonLabels") }}
{{- end }}

{{/* What a release's metrics are selected by. While a canary runs, which is not scaled, its streams are not counted. */}}
{{- define "csm-serving.metrics" -}}
namespace="{{ .Release.Namespace }}",release="{{ .Release.Name }}"{{ if .Values.canary.enabled }},track="stable"{{ end }}
{{- end }}

{{/* Any text as a label's value. */}}
{{- define "csm-serving.label" -}}
{{ regexReplaceAll "[^-A-Za-z0-9_.]" (include "csm-serving.text" .) "-" | trunc 63 | trimAll "-_." | quote }}
{{- end }}

{{/* The tracks as JSON: stable, and the canary if there is one. */}}
{{- define "csm-serving.tracks" -}}
{{- $name := include "csm-serving.name" . -}}
{{- $values := .Values -}}
{{- $stable := dict "track" "stable" "name" $name "path" "" "bundle" $values.bundle "digest" $values.image.digest "release" $values.release -}}
{{- $tracks := list $stable -}}
{{- if $values.canary.enabled -}}
{{- $digest := default $values.image.digest $values.canary.image.digest -}}
{{- $canary := dict "track" "canary" "name" (printf "%s-canary" $name) "path" "canary." "bundle" $values.canary.bundle "digest" $digest "release" $values.canary.release -}}
{{- $tracks = append $tracks $canary -}}
{{- end -}}
{{ toJson $tracks }}
{{- end }}

{{/* Seconds that Kubernetes gives a pod to stop. */}}
{{- define "csm-serving.grace" -}}
{{- $needed := add .Values.drain.preStopSeconds .Values.serving.exitTimeoutSeconds .Values.drain.marginSeconds -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if $given -}}
{{- if lt (int64 $given) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %v, but drain.preStopSeconds, serving.exitTimeoutSeconds and drain.marginSeconds are %d together: set it to %d or more, or to null" $given $needed $needed) -}}
{{- end -}}
{{ int64 $given }}
{{- else -}}
{{ $needed }}
{{- end -}}
{{- end }}

{{/* The port of the S3 store. */}}
{{- define "csm-serving.storage-port" -}}
{{- $address := urlParse .Values.storage.endpoint -}}
{{- if regexMatch ":[0-9]+$" $address.host -}}
{{ last (splitList ":" $address.host) }}
{{- else -}}
{{ ternary 443 80 (eq $address.scheme "https") }}
{{- end -}}
{{- end }}

{{/* What the values must say together; nothing where they do. */}}
{{- define "csm-serving.check" -}}
{{- $values := .Values -}}
{{- if not $values.image.digest -}}
{{- fail "image.digest is empty: set it to the image's digest, sha256:...; a tag can change under a running release" -}}
{{- end -}}
{{- range include "csm-serving.tracks" . | fromJsonArray -}}
{{- $place := printf "%sbundle" .path -}}
{{- if not .bundle.digest -}}
{{- fail (printf "%s.digest is empty: set it to the digest in the bundle's manifest" $place) -}}
{{- end -}}
{{- if not (hasSuffix (printf "/%s" .bundle.digest) .bundle.url) -}}
{{- fail (printf "%s.url is %q: set it to an address that ends in the bundle's digest, /%s, so that it names this bundle for ever" $place .bundle.url .bundle.digest) -}}
{{- end -}}
{{- end -}}
{{- $longest := int64 $values.serving.longestStreamSeconds -}}
{{- if lt (int64 $values.serving.exitTimeoutSeconds) $longest -}}
{{- fail (printf "serving.exitTimeoutSeconds is %v, less than serving.longestStreamSeconds, %d: set it to %d or more, or a pod that stops cuts streams" $values.serving.exitTimeoutSeconds $longest $longest) -}}
{{- end -}}
{{- if and (eq $values.audit.to "file") (not $values.audit.volume) -}}
{{- fail "audit.to is file, but audit.volume is empty: set it to the volume that the files lie on" -}}
{{- end -}}
{{- if and $values.voices.enabled (not $values.voices.volume) -}}
{{- fail "voices.enabled is true, but voices.volume is empty: set it to the volume with the registry" -}}
{{- end -}}
{{- if and $values.tls.clientCa (not $values.tls.secret) -}}
{{- fail "tls.clientCa is set, but tls.secret is empty: set it to the Secret with the server's certificate" -}}
{{- end -}}
{{- if and $values.monitoring.podMonitor.enabled $values.monitoring.serviceMonitor.enabled -}}
{{- fail "monitoring.podMonitor.enabled and monitoring.serviceMonitor.enabled are both true, which counts every stream twice: set one to false" -}}
{{- end -}}
{{- if and (eq (int64 $values.rollout.maxSurge) 0) (eq (int64 $values.rollout.maxUnavailable) 0) -}}
{{- fail "rollout.maxSurge and rollout.maxUnavailable are both 0, so no pod could be replaced: set one to 1 or more" -}}
{{- end -}}
{{- if and $values.grpcRoute.enabled (not $values.grpcRoute.parentRefs) -}}
{{- fail "grpcRoute.enabled is true, but grpcRoute.parentRefs is empty: set it to the gateway, [{name: ..., namespace: ...}]" -}}
{{- end -}}
{{- if and $values.canary.enabled $values.canary.weight (not $values.grpcRoute.enabled) -}}
{{- fail (printf "canary.weight is %v, but only a GRPCRoute splits calls: set grpcRoute.enabled to true, or canary.weight to 0" $values.canary.weight) -}}
{{- end -}}
{{- end }}
