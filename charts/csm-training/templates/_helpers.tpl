{{/* Labels that the release's own objects are found by. Takes the root. */}}
{{- define "csm-training.selector" -}}
app.kubernetes.io/name: csm-training
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of every object, but for the user's. Takes the root. */}}
{{- define "csm-training.own-labels" -}}
{{ include "csm-training.selector" . }}
app.kubernetes.io/part-of: csm-foundry
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels of an object of the release, not of one tenant. Takes the root. */}}
{{- define "csm-training.labels" -}}
{{ include "csm-training.labels-with" (dict "root" . "own" "") }}
{{- end }}

{{/* Labels of an object with some of its own. Takes root and own (YAML). */}}
{{- define "csm-training.labels-with" -}}
{{- $own := printf "%s\n%s" .own (include "csm-training.own-labels" .root) | trim -}}
{{ include "csm-training.map" (dict "own" $own "more" .root.Values.commonLabels "path" "commonLabels") }}
{{- end }}

{{/* Labels of a tenant's objects. Takes root and tenant. */}}
{{- define "csm-training.tenant-labels" -}}
{{ include "csm-training.labels-with" (dict "root" .root "own" (printf "csm.foundry/tenant: %q" .tenant.name)) }}
{{- end }}

{{/* Beginning of the names of the release's own objects. */}}
{{- define "csm-training.name" -}}
{{- .Values.fullnameOverride | default (include "csm-training.unique" (dict "root" . "length" 40)) -}}
{{- end }}

{{/* A tenant's namespace. Takes the tenant. */}}
{{- define "csm-training.namespace" -}}
{{ .namespace | default (printf "csm-%s" .name) }}
{{- end }}

{{/* Metadata of an object in a tenant's namespace. Takes root, tenant, name. */}}
{{- define "csm-training.metadata" -}}
name: {{ quote .name }}
namespace: {{ include "csm-training.namespace" .tenant | quote }}
labels:
  {{- include "csm-training.tenant-labels" . | nindent 2 }}
{{- end }}

{{/* Refuses tenants who would share what must be a tenant's own. */}}
{{- define "csm-training.check" -}}
{{- if not .Values.tenants -}}
{{- fail "tenants is empty: set it, with --values deploy/tenants/tenants.yaml or a file like it" -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $tenant := .Values.tenants -}}
{{- $own := dict "name" .name "namespace" (include "csm-training.namespace" .) "storage" .storage -}}
{{- if .experiment -}}{{- $_ := set $own "experiment" .experiment -}}{{- end -}}
{{- range $what, $value := $own -}}
{{- $key := printf "%s %s" $what $value -}}
{{- if hasKey $seen $key -}}
{{- fail (printf "tenants %s and %s have the same %s, %s: set another one" (get $seen $key) $tenant.name $what $value) -}}
{{- end -}}
{{- $_ := set $seen $key $tenant.name -}}
{{- end -}}
{{- range $other := $.Values.tenants -}}
{{- if and (ne $other.name $tenant.name) (hasPrefix (printf "%s/" $other.storage) $tenant.storage) -}}
{{- fail (printf "tenant %s stores under %s, which is tenant %s's: set another storage" $tenant.name $tenant.storage $other.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A tenant's quantities by their names in Kubernetes. Takes root and tenant. */}}
{{- define "csm-training.quantities" -}}
cpu: {{ include "csm-training.text" .tenant.quota.cpu | quote }}
memory: {{ .tenant.quota.memory | quote }}
{{ .root.Values.gpuResource }}: {{ .tenant.quota.gpus | default 0 | int64 | quote }}
{{- end }}

{{/* The ways out to DNS, to csm-platform and to what is called outside the cluster. */}}
{{- define "csm-training.names-and-platform" -}}
{{ include "csm-training.dns" . }}
{{ include "csm-training.platform" . }}
{{- end }}

{{/* The ways out to csm-platform and to what is called outside the cluster. */}}
{{- define "csm-training.platform" -}}
{{- with .Values.platform.ports }}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ $.Values.platform.namespace | quote }}
  ports:
    {{- range . }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- range .Values.platform.external }}
- to:
    - ipBlock: {cidr: {{ quote .cidr }}}
  ports:
    - {port: {{ .port }}, protocol: TCP}
{{- end }}
{{- end }}
