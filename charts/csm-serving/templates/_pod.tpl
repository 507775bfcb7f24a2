{{/* A setting of the server. Takes a list of its name and value. */}}
{{- define "csm-serving.setting" -}}
- {name: CSM_SERVING_{{ upper (first .) }}, value: {{ include "csm-serving.text" (last .) | quote }}}
{{- end }}

{{/* The server's environment. */}}
{{- define "csm-serving.environment" -}}
{{- $values := .Values -}}
{{- $serving := $values.serving -}}
{{ include "csm-serving.setting" (list "host" $serving.host) }}
{{ include "csm-serving.setting" (list "log" "stderr") }}
{{ include "csm-serving.setting" (list "slots" $serving.slots) }}
{{ include "csm-serving.setting" (list "queue" $serving.queue) }}
{{ include "csm-serving.setting" (list "exit_timeout_s" $serving.exitTimeoutSeconds) }}
{{ include "csm-serving.setting" (list "ready_timeout_s" $values.probes.startupSeconds) }}
{{- with $serving.connectionAgeSeconds }}
{{ include "csm-serving.setting" (list "connection_age_s" .) }}
{{- end }}
{{- if eq $values.audit.to "file" }}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{ include "csm-serving.setting" (list "audit" "/audit/$(POD_NAME).jsonl") }}
{{- else }}
{{ include "csm-serving.setting" (list "audit" $values.audit.to) }}
{{- end }}
{{ include "csm-serving.setting" (list "audit_required" $values.audit.required) }}
{{- if $values.voices.enabled }}
{{ include "csm-serving.setting" (list "voices" "/voices") }}
{{- with $values.voices.use }}
{{ include "csm-serving.setting" (list "voice_use" .) }}
{{- end }}
{{- end }}
{{- if $values.tokens.secret }}
{{ include "csm-serving.setting" (list "token_file" (printf "/etc/csm/tokens/%s" $values.tokens.key)) }}
{{- end }}
{{- if $values.tls.secret }}
{{ include "csm-serving.setting" (list "tls_cert" "/etc/csm/tls/tls.crt") }}
{{ include "csm-serving.setting" (list "tls_key" "/etc/csm/tls/tls.key") }}
{{- with $values.tls.clientCa }}
{{ include "csm-serving.setting" (list "tls_client_ca" (printf "/etc/csm/tls/%s" .)) }}
{{- end }}
{{- end }}
{{- range $name, $value := $serving.settings }}
{{ include "csm-serving.setting" (list $name $value) }}
{{- end }}
- name: CSM_SERVING_TURN_KEY
  valueFrom:
    secretKeyRef: {name: {{ quote $values.keys.secret }}, key: {{ quote $values.keys.turnKey }}}
{{- with $values.keys.watermarkKey }}
- name: CSM_SERVING_WATERMARK_KEY
  valueFrom:
    secretKeyRef: {name: {{ quote $values.keys.secret }}, key: {{ quote . }}}
{{- end }}
{{- end }}

{{/* Labels of a track. Not the chart's version: pods are not replaced for that. Takes a dict with root and track. */}}
{{- define "csm-serving.track-labels" -}}
app.kubernetes.io/component: server
csm.foundry/track: {{ .track.track }}
{{- with .track.release.model }}
csm.foundry/model: {{ include "csm-serving.label" . }}
{{- end }}
{{- with .track.release.version }}
csm.foundry/model-version: {{ include "csm-serving.label" . }}
{{- end }}
{{- end }}

{{/* What a track serves, in full. Takes a dict with root and track. */}}
{{- define "csm-serving.track-annotations" -}}
csm.foundry/bundle: {{ .track.bundle.url | quote }}
csm.foundry/bundle-digest: {{ .track.bundle.digest | quote }}
{{- with .track.release.model }}
csm.foundry/model: {{ . | quote }}
{{- end }}
{{- with .track.release.version }}
csm.foundry/model-version: {{ include "csm-serving.text" . | quote }}
{{- end }}
{{- end }}

{{/* A pod that serves one track. Takes a dict with root and track. */}}
{{- define "csm-serving.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    {{- $labels := printf "%s\napp.kubernetes.io/part-of: csm-foundry\n%s" (include "csm-serving.selector" $root) (include "csm-serving.track-labels" .) }}
    {{- include "csm-serving.map" (dict "own" $labels "more" $values.podLabels "path" "podLabels") | nindent 4 }}
  annotations:
    {{- $annotations := printf "kubectl.kubernetes.io/default-container: server\n%s" (include "csm-serving.track-annotations" .) }}
    {{- include "csm-serving.map" (dict "own" $annotations "more" $values.podAnnotations "path" "podAnnotations") | nindent 4 }}
spec:
  {{- include "csm-serving.pod-spec" (dict "root" $root "spec" (include "csm-serving.server" .)) | nindent 2 }}
{{- end }}

{{/* The spec of it, before what holds for every pod. Takes a dict with root and track. */}}
{{- define "csm-serving.server" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $image := printf "%s@%s" $values.image.repository .track.digest -}}
serviceAccountName: {{ include "csm-serving.name" $root | quote }}
terminationGracePeriodSeconds: {{ include "csm-serving.grace" $root }}
{{- if $values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range $values.topologySpread.keys }}
  - topologyKey: {{ quote . }}
    maxSkew: {{ $values.topologySpread.maxSkew }}
    whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "csm-serving.selector" $root | nindent 8 }}
        csm.foundry/track: {{ $.track.track }}
  {{- end }}
{{- end }}
initContainers:
  - name: bundle
    image: {{ quote $image }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: [csm, fetch-bundle]
    args: [{{ .track.bundle.url | quote }}, --digest, {{ .track.bundle.digest | quote }}, --out, /models/bundle]
    env:
      - {name: CSM_S3_ENDPOINT, value: {{ $values.storage.endpoint | quote }}}
      - {name: CSM_S3_REGION, value: {{ $values.storage.region | quote }}}
      {{- if $values.storage.secret }}
      {{- range list "CSM_S3_ACCESS_KEY" "CSM_S3_SECRET_KEY" }}
      - name: {{ . }}
        valueFrom:
          secretKeyRef: {name: {{ quote $values.storage.secret }}, key: {{ . }}}
      {{- end }}
      {{- else }}
      - {name: CSM_S3_CREDENTIALS, value: identity}
      {{- end }}
    resources:
      {{- toYaml $values.bundle.resources | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models}
      - {name: tmp, mountPath: /tmp}
containers:
  - name: server
    image: {{ quote $image }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: [csm, serve]
    args: [/models/bundle, --folder, /run/csm]
    env:
      {{- include "csm-serving.environment" $root | nindent 6 }}
    ports:
      - {name: grpc, containerPort: 8001}
      - {name: http, containerPort: 8000}
      - {name: metrics, containerPort: 8002}
    resources:
      {{- toYaml $values.resources | nindent 6 }}
    lifecycle:
      preStop:
        sleep: {seconds: {{ $values.drain.preStopSeconds }}}
    startupProbe:
      httpGet: {path: /v2/models/csm/ready, port: http}
      periodSeconds: {{ $values.probes.periodSeconds }}
      failureThreshold: {{ divf $values.probes.startupSeconds $values.probes.periodSeconds | ceil | int }}
      timeoutSeconds: 5
    readinessProbe:
      httpGet: {path: /v2/models/csm/ready, port: http}
      periodSeconds: {{ $values.probes.periodSeconds }}
      failureThreshold: {{ $values.probes.unreadyAfter }}
      timeoutSeconds: 5
    livenessProbe:
      httpGet: {path: /v2/health/live, port: http}
      periodSeconds: {{ $values.probes.periodSeconds }}
      failureThreshold: {{ $values.probes.deadAfter }}
      timeoutSeconds: 5
    volumeMounts:
      - {name: models, mountPath: /models, readOnly: true}
      - {name: run, mountPath: /run/csm}
      - {name: tmp, mountPath: /tmp}
      - {name: shm, mountPath: /dev/shm}
      {{- if $values.voices.enabled }}
      - {name: voices, mountPath: /voices, readOnly: true}
      {{- end }}
      {{- if eq $values.audit.to "file" }}
      - {name: audit, mountPath: /audit}
      {{- end }}
      {{- if $values.tokens.secret }}
      - {name: tokens, mountPath: /etc/csm/tokens, readOnly: true}
      {{- end }}
      {{- if $values.tls.secret }}
      - {name: tls, mountPath: /etc/csm/tls, readOnly: true}
      {{- end }}
volumes:
  - name: models
    emptyDir: {sizeLimit: {{ $values.bundle.sizeLimit }}}
  - name: run
    emptyDir: {sizeLimit: 1Gi}
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ $values.sharedMemory }}}
  {{- if $values.voices.enabled }}
  - name: voices
    {{- toYaml $values.voices.volume | nindent 4 }}
  {{- end }}
  {{- if eq $values.audit.to "file" }}
  - name: audit
    {{- toYaml $values.audit.volume | nindent 4 }}
  {{- end }}
  {{- with $values.tokens.secret }}
  - name: tokens
    secret: {secretName: {{ quote . }}, defaultMode: 0440}
  {{- end }}
  {{- with $values.tls.secret }}
  - name: tls
    secret: {secretName: {{ quote . }}, defaultMode: 0440}
  {{- end }}
{{- end }}
