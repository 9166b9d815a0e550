{{/* Begins the names of all objects. No dots: names of Services may not have them. */}}
{{- define "dmvpn.fullname" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $default := contains "dmvpn" $release | ternary $release (printf "%s-dmvpn" $release) -}}
{{- .Values.fullnameOverride | default $default | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "dmvpn.operator" -}}
{{ include "dmvpn.fullname" . }}-operator
{{- end -}}

{{- define "dmvpn.agent" -}}
{{ include "dmvpn.fullname" . }}-agent
{{- end -}}

{{- define "dmvpn.charon" -}}
{{ include "dmvpn.fullname" . }}-charon
{{- end -}}

{{/* Names of cluster-scoped objects. Neither part has a dot, so two releases never mean the same. */}}
{{- define "dmvpn.cluster.operator" -}}
{{ include "dmvpn.operator" . }}.{{ .Release.Namespace }}
{{- end -}}

{{- define "dmvpn.cluster.agent" -}}
{{ include "dmvpn.agent" . }}.{{ .Release.Namespace }}
{{- end -}}

{{/* Labels by which pods are selected. Call it with (list $ "component"). */}}
{{- define "dmvpn.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: dmvpn
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of pods: without the chart's version, which would replace them for nothing. */}}
{{- define "dmvpn.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "dmvpn.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{/* Labels of every object. Call it with (list $ "component"). */}}
{{- define "dmvpn.labels" -}}
{{- $root := index . 0 -}}
{{ include "dmvpn.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Reference of an image. Call it with (list $ .Values.image.agent). */}}
{{- define "dmvpn.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Environment of every container of ours. */}}
{{- define "dmvpn.env" -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: RUST_LOG
  value: {{ .Values.logLevel | quote }}
{{- with .Values.apiServer }}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What a pod of the operator's program may: nothing (the profile "restricted"). */}}
{{- define "dmvpn.restricted.pod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "dmvpn.restricted.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
