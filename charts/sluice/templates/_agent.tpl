{{- define "sluice.agent" -}}
- name: agent
  image: {{ include "sluice.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sluice-agent]
  args:
    - --kubernetes
    - --namespace=$(POD_NAMESPACE)
    - --pod=$(POD_NAME)
    - --pod-uid=$(POD_UID)
    - --daemonset={{ include "sluice.fullname" . }}
    - --node=$(NODE_NAME)
    - --proc=/host/proc
    - --cgroup={{ .Values.cgroup }}
    - --enroll={{ .Values.enrollment.mode }}
    - --reference-grants={{ .Values.referenceGrants }}
    {{- with .Values.cni }}
    {{- if .enabled }}
    - --cni-plugin=/usr/local/bin/sluice-cni
    {{- end }}
    {{- if or .enabled .remove }}
    - --cni-bin-dir=/host{{ .binDir }}
    - --cni-conf-dir=/host{{ .confDir }}
    - --cni-socket=/run/sluice/cni.sock
    - --cni-when-away={{ .whenAway }}
    {{- end }}
    {{- end }}
    - --socket=/run/sluice/agent.sock
    - --admin=127.0.0.1:15021
    - --serve=0.0.0.0:15022
    - --log-level={{ .Values.logLevel }}
    {{- range .Values.agent.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  ports:
    - {name: agent, containerPort: 15022}
  # It is no reason to kill an agent that the API server is away: what it has programmed serves on.
  livenessProbe:
    httpGet: {path: /healthz, port: agent}
    initialDelaySeconds: 10
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet: {path: /readyz, port: agent}
    periodSeconds: 3
    timeoutSeconds: 3
  {{- $context := dict "container" .Values.agent "seLinuxOptions" .Values.seLinuxOptions }}
  # BPF and NET_ADMIN for programs in the kernel; SYS_ADMIN, NET_ADMIN and NET_BIND_SERVICE to make routes and listeners, at
  # a port that pods do not take, in pods' namespaces; SYS_PTRACE to open those of other users' processes.
  {{- $_ := set $context "capabilities" (list "BPF" "NET_ADMIN" "NET_BIND_SERVICE" "SYS_ADMIN" "SYS_PTRACE") }}
  securityContext: {{- include "sluice.securityContext" $context | nindent 4 }}
  {{- with .Values.agent.resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: run, mountPath: /run/sluice}
    - {name: proc, mountPath: /host/proc, readOnly: true}
    # The namespaces of pods that start later have to be seen too.
    - {name: netns, mountPath: /run/netns, readOnly: true, mountPropagation: HostToContainer}
    - {name: cgroup, mountPath: /sys/fs/cgroup, readOnly: true}
    - {name: bpf, mountPath: /sys/fs/bpf}
    {{- if or .Values.cni.enabled .Values.cni.remove }}
    - {name: cni-conf, mountPath: {{ printf "/host%s" .Values.cni.confDir | quote }}}
    - {name: cni-bin, mountPath: {{ printf "/host%s" .Values.cni.binDir | quote }}}
    {{- end }}
    - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
