{{- define "sluice.proxy" -}}
- name: proxy
  image: {{ include "sluice.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sluice-proxy]
  args:
    - --agent-socket=/run/sluice/agent.sock
    - --drain-timeout={{ .Values.proxy.drainTimeoutSeconds }}s
    - --access-log={{ .Values.proxy.accessLog }}
    - --admin=127.0.0.1:15020
    - --serve=0.0.0.0:15023
    - --log-level={{ .Values.logLevel }}
    {{- range .Values.proxy.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  ports:
    - {name: proxy, containerPort: 15023}
  # A worker that hangs is replaced by its master: this is for a master that hangs.
  livenessProbe:
    httpGet: {path: /healthz, port: proxy}
    initialDelaySeconds: 10
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet: {path: /readyz, port: proxy}
    periodSeconds: 3
    timeoutSeconds: 3
  {{- $context := dict "container" .Values.proxy "seLinuxOptions" .Values.seLinuxOptions }}
  # For setns(2), to make its connections in the clients' namespaces.
  {{- $_ := set $context "capabilities" (list "SYS_ADMIN") }}
  securityContext: {{- include "sluice.securityContext" $context | nindent 4 }}
  {{- with .Values.proxy.resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: run, mountPath: /run/sluice}
{{- end }}
