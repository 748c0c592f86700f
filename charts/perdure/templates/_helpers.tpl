{{- define "perdure.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for every suffix that templates add. */}}
{{- define "perdure.fullname" -}}
{{- $name := include "perdure.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* For objects without a namespace: releases of the same name live in many. */}}
{{- define "perdure.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "perdure.fullname" .) -}}
{{- end -}}

{{- define "perdure.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "perdure.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "perdure.selector" -}}
app.kubernetes.io/name: {{ include "perdure.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "perdure.operator.selector" -}}
{{ include "perdure.selector" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "perdure.operator.name" -}}
{{- printf "%s-operator" (include "perdure.fullname" .) -}}
{{- end -}}

{{- define "perdure.operator.account" -}}
{{- .Values.operator.serviceAccount.name | default (ternary (include "perdure.operator.name" .) "default" .Values.operator.serviceAccount.create) -}}
{{- end -}}

{{/* The namespaces whose objects the operator serves, as JSON; empty for all. */}}
{{- define "perdure.operator.namespaces" -}}
{{- if .Values.rbac.clusterWide -}}[]{{- else -}}{{ .Values.operator.watchNamespaces | default (list .Release.Namespace) | uniq | toJson }}{{- end -}}
{{- end -}}

{{/* Whether the operator serves the namespace of the release, where `helm test` makes its instance; empty for no. */}}
{{- define "perdure.operator.servesRelease" -}}
{{- if and .Values.operator.enabled (or .Values.rbac.clusterWide (has .Release.Namespace (include "perdure.operator.namespaces" . | fromJsonArray))) -}}
true
{{- end -}}
{{- end -}}

{{/* image: takes repository, tag, digest */}}
{{- define "perdure.imageOf" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{- define "perdure.image" -}}
{{- $image := .Values.image -}}
{{- include "perdure.imageOf" (dict "repository" $image.repository "digest" $image.digest "tag" ($image.tag | default .Chart.AppVersion)) -}}
{{- end -}}

{{/* Secret and key of the URL by which operator and workers reach the database. */}}
{{- define "perdure.database.secret" -}}
{{- if eq .Values.postgresql.mode "external" -}}
{{- if not .Values.postgresql.external.existingSecret -}}
{{- fail (printf "\n\nNo database is named. Make a Secret with its URL in namespace %s and name it:\n  kubectl -n %s create secret generic perdure-database --from-literal=uri=postgresql://user:password@host:5432/database\n  helm … --set postgresql.external.existingSecret=perdure-database\nor try Perdure out with --set postgresql.mode=demo\n" .Release.Namespace .Release.Namespace) -}}
{{- end -}}
{{- .Values.postgresql.external.existingSecret -}}
{{- else if eq .Values.postgresql.mode "cnpg" -}}
{{- printf "%s-db-app" (include "perdure.fullname" .) -}}
{{- else -}}
{{- printf "%s-demo-db" (include "perdure.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "perdure.database.key" -}}
{{- if eq .Values.postgresql.mode "external" -}}{{ .Values.postgresql.external.key }}{{- else -}}uri{{- end -}}
{{- end -}}

{{/* Environment of a container that talks to the database: takes root, secret, key. */}}
{{- define "perdure.database.env" -}}
- name: PERDURE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secret | default (include "perdure.database.secret" .root) }}
      key: {{ ternary .key (include "perdure.database.key" .root) (not (empty .secret)) }}
{{- if .root.Values.postgresql.tls.existingSecret }}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /etc/perdure/database/ca.crt
{{- end }}
{{- end -}}

{{/* Who a pod is, by which the operator finds the lease of a worker whose pod is gone. */}}
{{- define "perdure.identity.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end -}}

{{- define "perdure.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.postgresql.tls.existingSecret }}
- name: database-ca
  mountPath: /etc/perdure/database
  readOnly: true
{{- end }}
{{- end -}}

{{- define "perdure.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.postgresql.tls }}
{{- if .existingSecret }}
- name: database-ca
  secret:
    secretName: {{ .existingSecret }}
    items:
    - key: {{ .key }}
      path: ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{/* Where and how pods run, the same words for operator and workers: takes settings, selector. */}}
{{- define "perdure.placement" -}}
{{- with .settings.podSpec }}
{{ toYaml . }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if or .settings.spread .settings.topologySpreadConstraints }}
topologySpreadConstraints:
{{- if .settings.spread }}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- $.selector | nindent 6 }}
{{- end }}
{{- end }}
{{- with .settings.topologySpreadConstraints }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}
