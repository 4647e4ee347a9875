{{/* Name of the chart, for labels. */}}
{{- define "tandem.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* Name of the release's objects; bounded so that suffixes fit. */}}
{{- define "tandem.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "tandem.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Labels that never change: the Deployment's selector is immutable. */}}
{{- define "tandem.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tandem.name" . }}-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "tandem.labels" -}}
{{ include "tandem.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tandem.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tandem.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name | required "serviceAccount.name is needed when serviceAccount.create is false" -}}
{{- end -}}
{{- end }}

{{/* A repository with the project's registry in front. Call with a dict of `root` and `repository`. */}}
{{- define "tandem.repository" -}}
{{- if .root.Values.image.registry -}}
{{- printf "%s/%s" (trimSuffix "/" .root.Values.image.registry) .repository -}}
{{- else -}}
{{- .repository -}}
{{- end -}}
{{- end }}

{{/* Image of the operator and the routers. */}}
{{- define "tandem.image" -}}
{{- $repository := include "tandem.repository" (dict "root" . "repository" .Values.image.repository) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* Default image of the bundled server's workers. */}}
{{- define "tandem.torchImage" -}}
{{- if .Values.workerImages.torch -}}
{{- .Values.workerImages.torch -}}
{{- else -}}
{{- printf "%s:%s" (include "tandem.repository" (dict "root" . "repository" "tandem-server")) .Chart.AppVersion -}}
{{- end -}}
{{- end }}
