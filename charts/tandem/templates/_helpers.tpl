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

{{/*
Fails when this release would serve the whole cluster beside another operator: the two would write the same objects.
Whoever installs roles for the cluster may also list its Deployments; a release for some namespaces asks nothing.
*/}}
{{- define "tandem.refuseSecondOperator" -}}
{{- if and (not .Values.watchNamespaces) (gt (int .Values.replicaCount) 0) -}}
{{- range (lookup "apps/v1" "Deployment" "" "").items -}}
{{- $labels := default (dict) .metadata.labels -}}
{{- $isOperator := and (hasPrefix "tandem-" (toString (get $labels "helm.sh/chart"))) (eq (toString (get $labels "app.kubernetes.io/component")) "operator") -}}
{{- $isThis := and (eq .metadata.namespace $.Release.Namespace) (eq .metadata.name (include "tandem.fullname" $)) -}}
{{- if and $isOperator (not $isThis) (gt (int .spec.replicas) 0) -}}
{{- fail (printf "Deployment %s/%s (release %s) is a Tandem operator already, and this release would serve the whole cluster too: both would write the same objects. Uninstall that release first (its resources and their pods stay), scale it to 0, or give both releases watchNamespaces of their own." .metadata.namespace .metadata.name (toString (get $labels "app.kubernetes.io/instance"))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
