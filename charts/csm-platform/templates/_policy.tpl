{{/*
The network policy of one component. Takes root and component, and of these what it has:
port and clients (other namespaces that may call it), callers (components here that may), metrics (Prometheus's port), callees (what it calls).
*/}}
{{- define "csm-platform.policy" -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- $root := .root -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "csm-platform.name" .root }}-{{ .component }}
  labels:
    {{- include "csm-platform.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "csm-platform.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- if .port }}
  ingress:
    - from:
        {{- if .clients }}
        - namespaceSelector:
            matchLabels:
              {{- toYaml $policy.clientLabels | nindent 14 }}
        {{- with $policy.clientNamespaces }}
        - namespaceSelector:
            matchExpressions:
              - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
        {{- end }}
        {{- end }}
        {{- range .callers }}
        - podSelector:
            matchLabels:
              {{- include "csm-platform.selector" (dict "root" $root "component" .) | nindent 14 }}
        {{- end }}
      ports:
        - {port: {{ .port }}, protocol: TCP}
    {{- if and .metrics $policy.monitoringNamespaces }}
    - from:
        - namespaceSelector:
            matchExpressions:
              - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson $policy.monitoringNamespaces }}}
      ports:
        - {port: {{ .metrics }}, protocol: TCP}
    {{- end }}
    {{- if .clients }}
    {{- with $policy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
  {{- end }}
  {{- if .callees }}
  egress:
    {{- if has "postgresql" .callees }}
    {{- include "csm-platform.egress" (dict "root" .root "component" "postgresql" "here" .root.Values.postgresql.enabled "port" 5432 "elsewhere" .root.Values.database.port) | nindent 4 }}
    {{- end }}
    {{- if has "s3" .callees }}
    {{- include "csm-platform.egress" (dict "root" .root "component" "s3" "here" .root.Values.seaweedfs.enabled "port" 8333 "elsewhere" (include "csm-platform.external-s3-port" .root)) | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* The way to a component, here or elsewhere. */}}
{{- define "csm-platform.egress" -}}
- to:
    {{- if .here }}
    - podSelector:
        matchLabels:
          {{- include "csm-platform.selector" . | nindent 10 }}
    {{- else }}
    {{- range .root.Values.networkPolicy.externalCidrs }}
    - ipBlock: {cidr: {{ quote . }}}
    {{- end }}
    {{- end }}
  ports:
    - {port: {{ ternary .port .elsewhere .here }}, protocol: TCP}
{{- end }}
