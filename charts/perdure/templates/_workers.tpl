{{/* All pools that are on, as JSON: name -> settings, defaults filled in. */}}
{{- define "perdure.workers" -}}
{{- $pools := dict -}}
{{- range $name, $own := .Values.workers -}}
{{- $pool := mustMergeOverwrite (deepCopy $.Values.workerDefaults) (deepCopy ($own | default dict)) -}}
{{- if $pool.enabled -}}
{{- if not $pool.modules -}}
{{- fail (printf "\n\nworkers.%s.modules is empty: name the Python modules with your workflows and activities, such as\n  --set 'workers.%s.modules={shop.orders}'\n" $name $name) -}}
{{- end -}}
{{- $_ := set $pools $name $pool -}}
{{- end -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}

{{- define "perdure.worker.name" -}}
{{- printf "%s-worker-%s" (include "perdure.fullname" .root) .name -}}
{{- end -}}

{{- define "perdure.worker.selector" -}}
{{ include "perdure.selector" .root }}
app.kubernetes.io/component: worker
perdure.dev/pool: {{ .name }}
{{- end -}}

{{- define "perdure.worker.image" -}}
{{- $image := .pool.image -}}
{{- if $image.repository -}}
{{- if not (or $image.tag $image.digest) -}}
{{- fail (printf "\n\nworkers.%s.image names a repository, but neither tag nor digest: say which version to run\n" .name) -}}
{{- end -}}
{{- include "perdure.imageOf" $image -}}
{{- else if or $image.tag $image.digest -}}
{{- include "perdure.imageOf" (dict "repository" .root.Values.image.repository "tag" $image.tag "digest" $image.digest) -}}
{{- else -}}
{{- include "perdure.image" .root -}}
{{- end -}}
{{- end -}}

{{/* The command line of a pool, as a YAML list. */}}
{{- define "perdure.worker.args" -}}
- worker
{{- range .pool.modules }}
- {{ . | quote }}
{{- end }}
{{- range .pool.queues }}
- --queue
- {{ . | quote }}
{{- end }}
- --health-port
- "8080"
- --log-format
- {{ .pool.logFormat }}
- --processes
- {{ .pool.processes | quote }}
- --lease
- {{ .pool.leaseSeconds | quote }}
- --drain
- {{ .pool.drainSeconds | quote }}
{{- with .pool.buildId }}
- --build-id
- {{ . | quote }}
{{- end }}
{{- range $option, $value := dict "--max-runs" .pool.maxRuns "--max-activities" .pool.maxActivities "--threads" .pool.threads }}
{{- if not (kindIs "invalid" $value) }}
- {{ $option }}
- {{ $value | int | quote }}
{{- end }}
{{- end }}
{{- range .pool.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}
