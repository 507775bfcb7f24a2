{{/*
The two questions that scale a release. Each takes what selects its metrics, `namespace="…",release="…"`, or
`<<.LabelMatchers>>` in a rule of prometheus-adapter, and is one number, or nothing where the metrics are missing.

Both are in units of which the target is a whole number: where it falls back, KEDA multiplies the whole part of the target
by the replicas, and the whole part of 0.7 is 0, which would scale to the minimum just when nothing is known.
*/}}

{{/* Slots that are taken or asked for, in per cent of a pod: 140 asks for two pods at a target of 70. */}}
{{- define "csm-serving.demand" -}}
100 * sum(csm_live_streams{ {{- . -}} } + csm_queued_streams{ {{- . -}} }) / max(csm_stream_slots{ {{- . -}} })
{{- end }}

{{/*
How long the first audio took, 95th percentile of the last two minutes, milliseconds. While nobody calls, the quantile is
NaN; `>= 0` drops it, and what is left is 0 as long as servers are seen.
*/}}
{{- define "csm-serving.first-audio" -}}
1000 * histogram_quantile(0.95, sum by (le) (rate(csm_first_audio_seconds_bucket{ {{- . -}} }[2m]))) >= 0 or 0 * max(csm_stream_slots{ {{- . -}} })
{{- end }}

{{/* The target of the demand, per cent of a pod's slots. */}}
{{- define "csm-serving.demand-target" -}}
{{ round (mulf 100 .Values.autoscaling.target) 0 | int }}
{{- end }}

{{/* The target of the first audio, milliseconds. */}}
{{- define "csm-serving.first-audio-target" -}}
{{ round (mulf 1000 .Values.autoscaling.firstAudioSeconds) 0 | int }}
{{- end }}

{{/* How fast pods come and go; the same for KEDA and the HorizontalPodAutoscaler. */}}
{{- define "csm-serving.behavior" -}}
{{- $up := .Values.autoscaling.scaleUp -}}
{{- $down := .Values.autoscaling.scaleDown -}}
scaleUp:
  stabilizationWindowSeconds: {{ $up.stabilizationSeconds }}
  selectPolicy: Max
  policies:
    - {type: Pods, value: {{ $up.pods }}, periodSeconds: {{ $up.periodSeconds }}}
    - {type: Percent, value: {{ $up.percent }}, periodSeconds: {{ $up.periodSeconds }}}
scaleDown:
  stabilizationWindowSeconds: {{ $down.stabilizationSeconds }}
  selectPolicy: Max
  policies:
    - {type: Pods, value: {{ $down.pods }}, periodSeconds: {{ $down.periodSeconds }}}
{{- end }}

{{/* What the autoscaler's values must say together. */}}
{{- define "csm-serving.check-autoscaling" -}}
{{- $scaling := .Values.autoscaling -}}
{{- $least := int64 $scaling.minReplicas -}}
{{- $most := int64 $scaling.maxReplicas -}}
{{- if lt $most $least -}}
{{- fail (printf "autoscaling.maxReplicas is %d, less than autoscaling.minReplicas, %d: set it to %d or more" $most $least $least) -}}
{{- end -}}
{{- $fallback := int64 $scaling.fallbackReplicas -}}
{{- if or (lt $fallback $least) (gt $fallback $most) -}}
{{- fail (printf "autoscaling.fallbackReplicas is %d: set it from autoscaling.minReplicas, %d, to autoscaling.maxReplicas, %d" $fallback $least $most) -}}
{{- end -}}
{{- $longest := int64 .Values.serving.longestStreamSeconds -}}
{{- if lt (int64 $scaling.scaleDown.stabilizationSeconds) $longest -}}
{{- fail (printf "autoscaling.scaleDown.stabilizationSeconds is %v, less than serving.longestStreamSeconds, %d: set it to %d or more" $scaling.scaleDown.stabilizationSeconds $longest $longest) -}}
{{- end -}}
{{- end }}
