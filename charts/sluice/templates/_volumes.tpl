{{- define "sluice.volumes" -}}
# Here the next pod of the node finds the one before it.
- {name: run, hostPath: {path: /run/sluice, type: DirectoryOrCreate}}
- {name: proc, hostPath: {path: /proc, type: Directory}}
- {name: netns, hostPath: {path: /run/netns, type: DirectoryOrCreate}}
- {name: cgroup, hostPath: {path: /sys/fs/cgroup, type: Directory}}
- {name: bpf, hostPath: {path: /sys/fs/bpf, type: Directory}}
{{- if or .Values.cni.enabled .Values.cni.remove }}
- {name: cni-conf, hostPath: {path: {{ .Values.cni.confDir | quote }}, type: DirectoryOrCreate}}
- {name: cni-bin, hostPath: {path: {{ .Values.cni.binDir | quote }}, type: DirectoryOrCreate}}
{{- end }}
# What automountServiceAccountToken would mount into both containers.
- name: token
  projected:
    defaultMode: 0400
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}
