// Package cgroup finds the cgroup that the kubelet keeps the node's pods in, and tells whether a pod is there. It reads
// the cgroup2 file system by the names that the kubelet gives; it asks nobody's processes, because what /proc says of
// their cgroups is relative to who reads it.
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Find returns the folder of the cgroup that is above all pods of the node and below the root, such as
// /sys/fs/cgroup/kubepods.slice. Root is where the host's cgroups are mounted, /sys/fs/cgroup. It is found by our own
// pod, because two nodes on one machine have two.
func Find(root, podUID string) (string, error) {
	if podUID == "" {
		return "", errors.New("find the cgroup of the pods: the UID of our own pod is not given (--pod-uid): " +
			"give it, or name the cgroup with --cgroup")
	}
	mount, err := Mount(root)
	if err != nil {
		return "", err
	}
	pod, err := podFolder(mount, podUID)
	if err != nil {
		return "", err
	}
	if pod == "" {
		return "", fmt.Errorf("find the cgroup of the pods: below %s is none of our own pod %s: mount the host's /sys/fs/cgroup there, "+
			"or name the cgroup with --cgroup", mount, podUID)
	}
	for dir := filepath.Dir(pod); dir != mount && len(dir) > len(mount); dir = filepath.Dir(dir) {
		if isKubepods(filepath.Base(dir)) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("find the cgroup of the pods: our own pod's, %s, is in none that is named kubepods: name the cgroup with --cgroup", pod)
}

// Mount returns where cgroup2 is mounted: at the root, or, beside the controllers of cgroup1, in its folder unified.
func Mount(root string) (string, error) {
	for _, dir := range []string{root, filepath.Join(root, "unified")} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return filepath.Clean(dir), nil
		}
	}
	return "", fmt.Errorf("no cgroup2 file system is mounted at %s nor at %s: the redirect needs one", root, filepath.Join(root, "unified"))
}

// Contains tells whether the processes of a pod are in cgroups below dir. If not, the error says where they are, or
// that they are nowhere. Root is as in Find.
func Contains(root, dir, podUID string) error {
	pod, err := podFolder(dir, podUID)
	if err != nil {
		return err
	}
	if pod != "" {
		return populated(pod)
	}
	mount, err := Mount(root)
	if err != nil {
		return err
	}
	if pod, err = podFolder(mount, podUID); err != nil {
		return err
	}
	if pod == "" {
		return fmt.Errorf("the pod %s has no cgroup below %s: its container runtime does not use cgroup2, and nothing of it is redirected", podUID, mount)
	}
	return fmt.Errorf("the pod %s is in the cgroup %s, which is not below %s, where the programs are attached: nothing of it is redirected; "+
		"name a cgroup above both with --cgroup", podUID, pod, dir)
}

// populated tells whether a process is in the cgroup or below it (cgroup.events).
func populated(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the pod has just ended
	}
	if err != nil {
		return fmt.Errorf("look at the cgroup of a pod: %w", err)
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if s.Text() == "populated 0" {
			return fmt.Errorf("the cgroup %s has no process: the pod's are in another one, and nothing of them is redirected", dir)
		}
	}
	return nil
}

// errFound ends a walk.
var errFound = errors.New("found")

// podFolder returns the folder of the pod's cgroup below dir, or "".
func podFolder(dir, uid string) (string, error) {
	var found string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != dir: // it ended meanwhile
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case PodOf(d.Name()) == uid:
			found = path
			return errFound
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return "", fmt.Errorf("look for the cgroup of pod %s: %w", uid, err)
	}
	return found, nil
}

// PodOf returns the UID of the pod whose cgroup has the folder, or "". The kubelet spells it pod<uid> with the cgroupfs
// driver, and …-pod<uid, "_" for "-">.slice with the systemd driver.
func PodOf(folder string) string {
	if uid, ok := strings.CutPrefix(folder, "pod"); ok && isUID(uid) {
		return uid
	}
	if slice, ok := strings.CutSuffix(folder, ".slice"); ok {
		if _, after, ok := strings.CutLast(slice, "-pod"); ok {
			if uid := strings.ReplaceAll(after, "_", "-"); isUID(uid) {
				return uid
			}
		}
	}
	return ""
}

// isUID: a pod's is a UUID, and a static pod's a hash of 32 digits.
func isUID(s string) bool {
	return len(s) >= 32 && strings.Trim(s, "0123456789abcdef-") == ""
}

// isKubepods: systemd's names repeat those of the cgroups above.
func isKubepods(name string) bool {
	return name == "kubepods" || name == "kubepods.slice" || strings.HasSuffix(name, "-kubepods.slice")
}
