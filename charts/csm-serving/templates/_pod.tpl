{{/* What every container has: no more rights than "restricted" allows. */}}
{{- define "csm-serving.container-security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* A setting of the server. Takes a list of its name and value. */}}
{{- define "csm-serving.setting" -}}
- {name: CSM_SERVING_{{ upper (first .) }}, value: {{ toJson (last .) | trimAll "\"" | quote }}}
{{- end }}

{{/* The server's environment. */}}
{{- define "csm-serving.environment" -}}
{{- $values := .Values -}}
{{- $serving := $values.serving -}}
{{ include "csm-serving.setting" (list "host" "0.0.0.0") }}
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
    secretKeyRef: {name: {{ $values.keys.secret }}, key: {{ $values.keys.turnKey }}}
{{- with $values.keys.watermarkKey }}
- name: CSM_SERVING_WATERMARK_KEY
  valueFrom:
    secretKeyRef: {name: {{ $values.keys.secret }}, key: {{ . }}}
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
csm.foundry/model-version: {{ toString . | quote }}
{{- end }}
{{- end }}

{{/* A pod that serves one track. Takes a dict with root and track. */}}
{{- define "csm-serving.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $image := printf "%s@%s" $values.image.repository .track.digest -}}
metadata:
  labels:
    {{- include "csm-serving.selector" $root | nindent 4 }}
    app.kubernetes.io/part-of: csm-foundry
    {{- include "csm-serving.track-labels" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: server
    {{- include "csm-serving.track-annotations" . | nindent 4 }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "csm-serving.name" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "csm-serving.grace" $root }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $values.topologySpread.enabled }}
  topologySpreadConstraints:
    {{- range $values.topologySpread.keys }}
    - topologyKey: {{ . }}
      maxSkew: {{ $values.topologySpread.maxSkew }}
      whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
      matchLabelKeys: [pod-template-hash]
      labelSelector:
        matchLabels:
          {{- include "csm-serving.selector" $root | nindent 10 }}
          csm.foundry/track: {{ $.track.track }}
    {{- end }}
  {{- end }}
  initContainers:
    - name: bundle
      image: {{ $image }}
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
            secretKeyRef: {name: {{ $values.storage.secret }}, key: {{ . }}}
        {{- end }}
        {{- else }}
        - {name: CSM_S3_CREDENTIALS, value: identity}
        {{- end }}
      resources:
        {{- toYaml $values.bundle.resources | nindent 8 }}
      {{- include "csm-serving.container-security" $root | nindent 6 }}
      volumeMounts:
        - {name: models, mountPath: /models}
        - {name: tmp, mountPath: /tmp}
  containers:
    - name: server
      image: {{ $image }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [csm, serve]
      args: [/models/bundle, --folder, /run/csm]
      env:
        {{- include "csm-serving.environment" $root | nindent 8 }}
      ports:
        - {name: grpc, containerPort: 8001}
        - {name: http, containerPort: 8000}
        - {name: metrics, containerPort: 8002}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      {{- include "csm-serving.container-security" $root | nindent 6 }}
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
      {{- toYaml $values.voices.volume | nindent 6 }}
    {{- end }}
    {{- if eq $values.audit.to "file" }}
    - name: audit
      {{- toYaml $values.audit.volume | nindent 6 }}
    {{- end }}
    {{- with $values.tokens.secret }}
    - name: tokens
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- with $values.tls.secret }}
    - name: tls
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
{{- end }}
