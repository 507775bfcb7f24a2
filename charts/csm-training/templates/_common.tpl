{{/*
What all charts do alike. tools/charts.py writes this text into templates/_common.tpl of each, with its name for csm-training.
*/}}

{{/*
Puts what is missing of .Values in its place; every template begins with this. A value is missing where somebody set it to
null, or where `helm upgrade --reuse-values` brings the values of a version without it. A value that may be null stays so,
unless its whole section is missing. Whole numbers become integers, which Helm's files of values do not have: a template
would write 1000000 as 1e+06.
*/}}
{{- define "csm-training.values" -}}
{{- $known := .Files.Get "files/defaults.json" | fromJson -}}
{{- include "csm-training.fill" (dict "given" .Values "known" $known "whole" false) -}}
{{- end }}

{{/* Takes the values that are given, what is known of them, and whether their section was missing. */}}
{{- define "csm-training.fill" -}}
{{- $given := .given -}}
{{- $whole := .whole -}}
{{- range $key, $of := .known -}}
{{- $missing := kindIs "invalid" (index $given $key) -}}
{{- if hasKey $of "section" -}}
{{- if $missing -}}{{- $_ := set $given $key dict -}}{{- end -}}
{{- include "csm-training.fill" (dict "given" (index $given $key) "known" $of.section "whole" (or $whole $missing)) -}}
{{- else -}}
{{- if and $missing (or $whole (not $of.nullable)) -}}{{- $_ := set $given $key $of.default -}}{{- end -}}
{{- $value := index $given $key -}}
{{- if kindIs "float64" $value -}}
{{- if eq $value (floor $value) -}}{{- $_ := set $given $key (int64 $value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A string, number or flag as text: 1000000 and not 1e+06. */}}
{{- define "csm-training.text" -}}
{{ if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{/*
What the names of a release begin with, and no other's do: its own name, or fullnameOverride. A name that is too long, or
begins or goes on as a Service's may not, is made fit, and a digest of it keeps it apart. Takes root and length.
*/}}
{{- define "csm-training.unique" -}}
{{- $name := .root.Release.Name -}}
{{- if and (le (len $name) (int .length)) (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{ $name }}
{{- else -}}
{{- $fit := regexReplaceAll "^([^a-z])" (replace "." "-" $name) "r${1}" -}}
{{ trunc (sub .length 9 | int) $fit | trimSuffix "-" }}-{{ sha256sum $name | trunc 8 }}
{{- end -}}
{{- end }}

{{/* A map of the chart's and a map of the user's, which may not name the same keys. Takes own (YAML), more, path. */}}
{{- define "csm-training.map" -}}
{{- $own := fromYaml .own -}}
{{- $both := list -}}
{{- range $key, $_ := .more -}}
{{- if hasKey $own $key -}}{{- $both = append $both $key -}}{{- end -}}
{{- end -}}
{{- with $both -}}
{{- fail (printf "%s: %s is set already, by the chart or another value: take it out" $.path (join ", " .)) -}}
{{- end -}}
{{ .own }}
{{- with .more }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A list of the chart's with one of the user's behind, which may not name the same things. Takes own, more, key, path; JSON. */}}
{{- define "csm-training.list" -}}
{{- $all := .own | default list -}}
{{- $names := list -}}
{{- range $all -}}{{- $names = append $names (get . $.key) -}}{{- end -}}
{{- range .more -}}
{{- $name := get . $.key -}}
{{- if has $name $names -}}
{{- fail (printf "%s: %s is set already, by the chart or another value: take it out" $.path $name) -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- $all = append $all . -}}
{{- end -}}
{{ toJson $all }}
{{- end }}

{{/* Variables of every container: how it gets out through a proxy, and whom it trusts. JSON. Takes the root. */}}
{{- define "csm-training.variables" -}}
{{- $all := list -}}
{{- with .Values.proxy -}}
{{- if or .http .https -}}
{{- range $name, $value := dict "HTTP_PROXY" .http "HTTPS_PROXY" .https "NO_PROXY" .noProxy -}}
{{- if $value -}}
{{- $all = concat $all (list (dict "name" $name "value" $value) (dict "name" (lower $name) "value" $value)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if include "csm-training.private-ca" . | fromJson -}}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" "CSM_S3_CA" -}}
{{- $all = append $all (dict "name" . "value" (printf "/etc/csm/authorities/%s" $.Values.privateCa.key)) -}}
{{- end -}}
{{- end -}}
{{ toJson $all }}
{{- end }}

{{/* The volume of the authorities that pods trust, or nothing. JSON. Takes the root. */}}
{{- define "csm-training.private-ca" -}}
{{- $ca := .Values.privateCa -}}
{{- if and $ca.configMap $ca.secret -}}
{{- fail "privateCa.configMap and privateCa.secret are both set: set one to \"\"" -}}
{{- end -}}
{{- $volume := dict -}}
{{- if $ca.configMap -}}
{{- $volume = dict "name" "authorities" "configMap" (dict "name" $ca.configMap) -}}
{{- else if $ca.secret -}}
{{- $volume = dict "name" "authorities" "secret" (dict "secretName" $ca.secret) -}}
{{- end -}}
{{ toJson $volume }}
{{- end }}

{{/*
The spec of a pod, with all that holds for every pod: no token, no more rights than the profile "restricted" allows, where it
may run, and what the user adds to it. Takes root, spec (YAML), and security where the pod has another user than the rest.
*/}}
{{- define "csm-training.pod-spec" -}}
{{- $values := .root.Values -}}
{{- $pod := fromYaml .spec -}}
{{- if hasKey $pod "Error" -}}{{- fail (printf "%s: %s" .root.Template.Name $pod.Error) -}}{{- end -}}
{{- $restricted := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- $_ := set $pod "securityContext" (merge $restricted (default $values.podSecurityContext .security)) -}}
{{- $_ := set $pod "automountServiceAccountToken" false -}}
{{- $_ := set $pod "enableServiceLinks" false -}}
{{- range $name, $value := dict "priorityClassName" $values.priorityClassName "runtimeClassName" $values.runtimeClassName "nodeSelector" $values.nodeSelector "tolerations" $values.tolerations "affinity" $values.affinity -}}
{{- if $value -}}{{- $_ := set $pod $name $value -}}{{- end -}}
{{- end -}}
{{- range $values.imagePullSecrets -}}
{{- $_ := set $pod "imagePullSecrets" (append (get $pod "imagePullSecrets" | default list) (dict "name" .)) -}}
{{- end -}}
{{- $volumes := get $pod "volumes" | default list -}}
{{- $mounts := list -}}
{{- with include "csm-training.private-ca" .root | fromJson -}}
{{- $volumes = append $volumes . -}}
{{- $mounts = append $mounts (dict "name" .name "mountPath" "/etc/csm/authorities" "readOnly" true) -}}
{{- end -}}
{{- $volumes = include "csm-training.list" (dict "own" $volumes "more" $values.extraVolumes "key" "name" "path" "extraVolumes") | fromJsonArray -}}
{{- if $volumes -}}{{- $_ := set $pod "volumes" $volumes -}}{{- end -}}
{{- $variables := include "csm-training.variables" .root | fromJsonArray -}}
{{- range concat (get $pod "initContainers" | default list) $pod.containers -}}
{{- $container := . -}}
{{- $env := include "csm-training.list" (dict "own" .env "more" $variables "key" "name" "path" "proxy and privateCa") | fromJsonArray -}}
{{- $env = include "csm-training.list" (dict "own" $env "more" $values.extraEnv "key" "name" "path" "extraEnv") | fromJsonArray -}}
{{- $own := concat (.volumeMounts | default list) $mounts -}}
{{- $all := include "csm-training.list" (dict "own" $own "more" $values.extraVolumeMounts "key" "mountPath" "path" "extraVolumeMounts") | fromJsonArray -}}
{{- range $name, $value := dict "env" $env "volumeMounts" $all -}}
{{- if $value -}}{{- $_ := set $container $name $value -}}{{- end -}}
{{- end -}}
{{- $_ := set $container "securityContext" (dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL"))) -}}
{{- end -}}
{{ toYaml $pod }}
{{- end }}

{{/* How a Service takes addresses: IPv4, IPv6 or both. Takes the values of it. */}}
{{- define "csm-training.families" -}}
{{- with .ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end }}

{{/* The way out to the cluster's DNS, and what the user adds to it. Takes the root. */}}
{{- define "csm-training.dns" -}}
{{- $policy := .Values.networkPolicy -}}
- to:
    {{- toYaml $policy.dns | nindent 4 }}
  ports:
    {{- range $policy.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
What `helm test` runs: a pod that connects to places, and the network policies that let it, which are gone again after it.
Takes root, name and labels of the release, selector (what all its pods carry), image, places, and egress where the places
are not of the release (both YAML). A pod that is ready may be out of reach all the same; this is asked here.
*/}}
{{- define "csm-training.test" -}}
{{- $tests := .root.Values.tests -}}
{{- if and $tests.enabled .places }}
{{- $own := printf "%s\napp.kubernetes.io/component: test" .labels }}
{{- $selected := printf "%s\napp.kubernetes.io/component: test" .selector }}
{{- $ask := "import socket, sys\nfor place in sys.argv[1:]:\n    host, _, port = place.rpartition(':')\n    socket.create_connection((host.strip('[]'), int(port)), timeout=20).close()\n    print(place, 'answers')" }}
{{- if .root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ printf "%s-test" .name | quote }}
  labels:
    {{- $own | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-weight: "-1"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
spec:
  podSelector:
    matchLabels:
      {{- $selected | nindent 6 }}
  policyTypes: [Ingress, Egress]
  egress:
    {{- include "csm-training.dns" .root | nindent 4 }}
    {{- if .egress }}
    {{- .egress | nindent 4 }}
    {{- else }}
    - to:
        - podSelector:
            matchLabels:
              {{- .selector | nindent 14 }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ printf "%s-tested" .name | quote }}
  labels:
    {{- $own | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-weight: "-1"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
spec:
  podSelector:
    matchLabels:
      {{- .selector | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              {{- $selected | nindent 14 }}
    {{- end }}
{{- end }}
---
apiVersion: v1
kind: Pod
metadata:
  name: {{ printf "%s-test" .name | quote }}
  labels:
    {{- include "csm-training.map" (dict "own" $own "more" .root.Values.podLabels "path" "podLabels") | nindent 4 }}
  annotations:
    {{- $annotations := "helm.sh/hook: test\nhelm.sh/hook-delete-policy: before-hook-creation" }}
    {{- include "csm-training.map" (dict "own" $annotations "more" .root.Values.podAnnotations "path" "podAnnotations") | nindent 4 }}
spec:
  {{- $container := dict "name" "test" "image" .image "command" (concat (list "python" "-c" $ask) .places) "resources" $tests.resources }}
  {{- with .pullPolicy }}{{- $_ := set $container "imagePullPolicy" . }}{{- end }}
  {{- $spec := dict "restartPolicy" "Never" "serviceAccountName" .account "containers" (list $container) }}
  {{- include "csm-training.pod-spec" (dict "root" .root "spec" (toYaml $spec)) | nindent 2 }}
{{- end }}
{{- end }}
