{{- define "stoker.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, with the chart's unless that is in it already. */}}
{{- define "stoker.fullname" -}}
{{- $name := include "stoker.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "stoker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "stoker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "stoker.labels" -}}
{{- with .Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "stoker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* The metadata that every object shares; called with (list . name). */}}
{{- define "stoker.metadata" -}}
{{- $context := first . -}}
name: {{ last . }}
labels: {{- include "stoker.labels" $context | nindent 2 }}
{{- with $context.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same, for what lies in the release's namespace. */}}
{{- define "stoker.ownMetadata" -}}
namespace: {{ (first .).Release.Namespace }}
{{ include "stoker.metadata" . }}
{{- end -}}

{{- define "stoker.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "stoker.fullname" .) -}}
{{- end -}}

{{/* repository:tag of an image; called with (list . image). */}}
{{- define "stoker.image" -}}
{{- $image := last . -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (first .).Chart.AppVersion) -}}
{{- end -}}

{{/* What Pod Security `restricted` asks of a container, and a root file system that nothing writes to. */}}
{{- define "stoker.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What the operator is started with. */}}
{{- define "stoker.args" -}}
- --log={{ .Values.log.level }}
- --trainer-image={{ include "stoker.image" (list . .Values.trainer.image) }}
- --trainer-gpu-image={{ include "stoker.image" (list . (merge (dict "tag" (.Values.trainer.gpuImage.tag | default (printf "%s-cuda" .Chart.AppVersion))) .Values.trainer.gpuImage)) }}
- --image-pull-policy={{ .Values.trainer.image.pullPolicy }}
{{- with .Values.trainer.imagePullSecrets }}
- --image-pull-secrets={{ join "," . }}
{{- end }}
{{- with .Values.namespaces }}
- --namespaces={{ join "," . }}
{{- end }}
{{- if .Values.defaultStorage.uri }}
{{- $storage := dict }}
{{- range $key, $value := .Values.defaultStorage }}
{{- with $value }}{{ $_ := set $storage $key . }}{{ end }}
{{- end }}
- {{ printf "--default-storage=%s" (toJson $storage) | quote }}
{{- end }}
- --allow-file-storage={{ .Values.fileStorage }}
- --concurrency={{ .Values.concurrency }}
{{- end -}}
