{{/* Labels of every object, but for the user's. Takes a dict with root and component. */}}
{{- define "csm-platform.own-labels" -}}
{{ include "csm-platform.selector" . }}
app.kubernetes.io/part-of: csm-foundry
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Labels of every object. Takes a dict with root and component. */}}
{{- define "csm-platform.labels" -}}
{{ include "csm-platform.map" (dict "own" (include "csm-platform.own-labels" .) "more" .root.Values.commonLabels "path" "commonLabels") }}
{{- end }}

{{/* What a pod is called by and carries. Takes a dict with root, component, and annotations (YAML) where it has some of its own. */}}
{{- define "csm-platform.pod-metadata" -}}
labels:
  {{- include "csm-platform.map" (dict "own" (include "csm-platform.labels" .) "more" .root.Values.podLabels "path" "podLabels") | nindent 2 }}
{{- if or .annotations .root.Values.podAnnotations }}
annotations:
  {{- include "csm-platform.map" (dict "own" (default "" .annotations) "more" .root.Values.podAnnotations "path" "podAnnotations") | nindent 2 }}
{{- end }}
{{- end }}

{{/* Beginning of every object's name; short enough for what Kubernetes puts behind a StatefulSet's. */}}
{{- define "csm-platform.name" -}}
{{- .Values.fullnameOverride | default (include "csm-platform.unique" (dict "root" . "length" 40)) -}}
{{- end }}

{{/* The port of MLflow's Service. */}}
{{- define "csm-platform.mlflow-port" -}}
{{ .Values.mlflow.servicePort | default .Values.mlflow.port }}
{{- end }}

{{/* The class of a volume: the cluster's default where it is empty, none where it is "-". Takes the class. */}}
{{- define "csm-platform.storage-class" -}}
{{- if eq . "-" -}}
storageClassName: ""
{{- else if . -}}
storageClassName: {{ quote . }}
{{- end -}}
{{- end }}

{{/* Labels that a component's pods are selected by. Takes a dict with root and component. */}}
{{- define "csm-platform.selector" -}}
app.kubernetes.io/name: csm-platform
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* A container's image, by its digest. Takes a dict with image and name, the value's path. */}}
{{- define "csm-platform.image" -}}
{{- if not .image.digest -}}
{{- fail (printf "%s.digest is empty: set it to the image's digest, sha256:...; a tag can change under a running release" .name) -}}
{{- end -}}
image: {{ printf "%s@%s" .image.repository .image.digest | quote }}
{{- with .image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{/* The spec of a pod. Takes root, spec (YAML), and security where it has another user. */}}
{{- define "csm-platform.pod" -}}
{{- $own := printf "serviceAccountName: %s-platform\n%s" (include "csm-platform.name" .root) .spec -}}
{{ include "csm-platform.pod-spec" (dict "root" .root "spec" $own "security" .security) }}
{{- end }}

{{/* Name of a service as other namespaces call it. Takes a dict with root and service. */}}
{{- define "csm-platform.host" -}}
{{ include "csm-platform.name" .root }}-{{ .service }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* Address of the S3 store. */}}
{{- define "csm-platform.s3-endpoint" -}}
{{- if .Values.seaweedfs.enabled -}}
http://{{ include "csm-platform.host" (dict "root" . "service" "s3") }}:8333
{{- else -}}
{{ required "s3.endpoint is empty and seaweedfs.enabled is false: set s3.endpoint to the address of an S3 store, https://host:port" .Values.s3.endpoint }}
{{- end -}}
{{- end }}

{{/* Address of the database for SQLAlchemy. It holds no password: libpq reads that from PGPASSWORD. */}}
{{- define "csm-platform.database" -}}
{{- $database := .Values.database -}}
{{- $place := printf "%s:5432" (include "csm-platform.host" (dict "root" . "service" "postgresql")) -}}
{{- if not .Values.postgresql.enabled -}}
{{- $host := required "database.host is empty and postgresql.enabled is false: set database.host to the host of a PostgreSQL" $database.host -}}
{{- $place = printf "%s:%v" $host $database.port -}}
{{- end -}}
postgresql+psycopg2://{{ $database.user }}@{{ $place }}/{{ $database.name }}
{{- end }}

{{/* The host of the S3 store as a network policy needs it: its port. */}}
{{- define "csm-platform.external-s3-port" -}}
{{- $address := urlParse .Values.s3.endpoint -}}
{{- if contains ":" $address.host -}}
{{ last (splitList ":" $address.host) }}
{{- else -}}
{{ ternary 443 80 (eq $address.scheme "https") }}
{{- end -}}
{{- end }}

{{/* Every name by which MLflow may be called, as it stands in the Host header. */}}
{{- define "csm-platform.allowed-hosts" -}}
{{- $name := printf "%s-mlflow" (include "csm-platform.name" .) -}}
{{- $ns := .Release.Namespace -}}
{{- $names := list $name (printf "%s.%s" $name $ns) (printf "%s.%s.svc" $name $ns) (printf "%s.%s.svc.%s" $name $ns .Values.clusterDomain) -}}
{{- $hosts := list -}}
{{- range $names -}}
{{- $hosts = concat $hosts (list . (printf "%s:%s" . (include "csm-platform.mlflow-port" $))) -}}
{{- end -}}
{{- $hosts = append $hosts (printf "localhost:%v" .Values.mlflow.port) -}}
{{- if .Values.mlflow.ingress.enabled -}}
{{- $hosts = append $hosts .Values.mlflow.ingress.host -}}
{{- end -}}
{{- join "," (concat $hosts .Values.mlflow.extraHosts) -}}
{{- end }}

{{/* What libpq reads from the environment. */}}
{{- define "csm-platform.database-env" -}}
{{- $database := .Values.database -}}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ quote $database.secret }}, key: password}
{{- if not .Values.postgresql.enabled }}
- {name: PGSSLMODE, value: {{ $database.sslMode }}}
{{- if hasPrefix "verify" $database.sslMode }}
- {name: PGSSLROOTCERT, value: {{ ternary "/run/secrets/database/ca.crt" "system" (not (empty $database.caSecret)) }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether the authority of a database elsewhere is mounted. */}}
{{- define "csm-platform.database-ca" -}}
{{- if and (not .Values.postgresql.enabled) .Values.database.caSecret (hasPrefix "verify" .Values.database.sslMode) }}true{{ end -}}
{{- end }}

{{- define "csm-platform.database-mounts" -}}
{{- if include "csm-platform.database-ca" . -}}
- {name: database-ca, mountPath: /run/secrets/database, readOnly: true}
{{- end -}}
{{- end }}

{{- define "csm-platform.database-volumes" -}}
{{- if include "csm-platform.database-ca" . -}}
- name: database-ca
  secret: {secretName: {{ quote .Values.database.caSecret }}}
{{- end -}}
{{- end }}

{{/* Who may do what in the S3 store: the chart's own identities and one a tenant. JSON. */}}
{{- define "csm-platform.identities" -}}
{{- $all := list -}}
{{- range .Values.seaweedfs.identities -}}
{{- $all = append $all (pick . "name" "actions" "secret") -}}
{{- end -}}
{{- range .Values.tenants -}}
{{- $place := trimPrefix "s3://" .storage -}}
{{- $bucket := first (splitList "/" $place) -}}
{{- $actions := list (printf "Read:%s/*" $place) (printf "Write:%s/*" $place) (printf "List:%s/*" $place) (printf "Tagging:%s/*" $place) -}}
{{- $all = append $all (dict "name" .name "actions" $actions "secret" (printf "csm-s3-%s" .name)) -}}
{{- end -}}
{{- $names := list -}}
{{- range $all -}}
{{- if has .name $names -}}
{{- fail (printf "two identities of the S3 store are named %s: rename the tenant, or the one in seaweedfs.identities" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{ toJson $all }}
{{- end }}
