{{/* Labels of every object. Takes the root. */}}
{{- define "csm-training.labels" -}}
app.kubernetes.io/name: csm-training
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: csm-foundry
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Beginning of the names of the release's own objects. */}}
{{- define "csm-training.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* A tenant's namespace. Takes the tenant. */}}
{{- define "csm-training.namespace" -}}
{{ .namespace | default (printf "csm-%s" .name) }}
{{- end }}

{{/* Metadata of an object in a tenant's namespace. Takes root, tenant, name. */}}
{{- define "csm-training.metadata" -}}
name: {{ .name }}
namespace: {{ include "csm-training.namespace" .tenant }}
labels:
  csm.foundry/tenant: {{ .tenant.name }}
  {{- include "csm-training.labels" .root | nindent 2 }}
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
cpu: {{ .tenant.quota.cpu | toString | quote }}
memory: {{ .tenant.quota.memory }}
{{ .root.Values.gpuResource }}: {{ .tenant.quota.gpus | default 0 | toString | quote }}
{{- end }}

{{/* The ways out to DNS, to csm-platform and to what is called outside the cluster. */}}
{{- define "csm-training.names-and-platform" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
      podSelector:
        matchLabels:
          k8s-app: kube-dns
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.platform.namespace }}
  ports:
    {{- range .Values.platform.ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- range .Values.platform.external }}
- to:
    - ipBlock: {cidr: {{ .cidr }}}
  ports:
    - {port: {{ .port }}, protocol: TCP}
{{- end }}
{{- end }}
