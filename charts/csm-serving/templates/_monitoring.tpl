{{/* Labels that a scrape gives every series: which release, and which of its tracks. */}}
{{- define "csm-serving.relabelings" -}}
- sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance]
  targetLabel: release
- sourceLabels: [__meta_kubernetes_pod_label_csm_foundry_track]
  targetLabel: track
- sourceLabels: [__meta_kubernetes_pod_name]
  targetLabel: pod
- sourceLabels: [__meta_kubernetes_namespace]
  targetLabel: namespace
{{- end }}

{{/* Labels by which an operator picks an object. */}}
{{- define "csm-serving.monitoring-labels" -}}
{{ include "csm-serving.map" (dict "own" (include "csm-serving.labels" .) "more" .Values.monitoring.labels "path" "monitoring.labels") }}
{{- end }}
