// Command images builds the programs for each platform and writes them as one container image: an archive in the layout
// of OCI, which `ctr images import`, `docker load` and skopeo read. It needs neither Docker nor root, and the same
// sources give the same bytes.
//
// It writes the layout by itself: that is a tar with a few JSON documents, while the libraries for it are made for
// registries, and bring along all that those need.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit status: 2 for a bad command line, 1 for anything else that went wrong.
func run(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	digest, err := build(ctx, o, errOut)
	if err != nil {
		fmt.Fprintf(errOut, "images: %v\n", err)
		return 1
	}
	fmt.Fprintf(out, "%s: %s@%s\n", o.out, o.image, digest)
	return 0
}

// options are what the command line says.
type options struct {
	image     string // the name of the image, with its tag
	out       string // the archive
	platforms []platform
}

// parse prints what is wrong to out.
func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.image, "image", "", "`name` of the image: HOST/NAME:TAG, where HOST may be localhost")
	flags.StringVar(&o.out, "out", "bin/images/sluice.tar", "`file` to write; what is built is kept in folders beside it")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64", "comma-separated `names`")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	err := checkImage(o.image)
	if err == nil {
		o.platforms, err = parsePlatforms(*platforms)
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(out, "images: %v\n", err)
	}
	return o, err
}

// checkImage refuses names that a kubelet would read as another one: without a host it adds one of its own.
func checkImage(name string) error {
	host, rest, hosted := strings.Cut(name, "/")
	path, tag, tagged := strings.Cut(rest, ":")
	switch {
	case !hosted || host != "localhost" && !strings.ContainsAny(host, ".:"):
		return fmt.Errorf("-image %q names no host: say HOST/NAME:TAG, such as localhost/sluice:dev", name)
	case path == "" || !tagged || tag == "" || len(tag) > 128:
		return fmt.Errorf("-image %q has no tag of 1 to 128 characters: say HOST/NAME:TAG, such as localhost/sluice:dev", name)
	case path != strings.ToLower(path):
		return fmt.Errorf("-image %q: a name has no capital letters", name)
	case strings.Trim(rest, letters+strings.ToUpper(letters)+"0123456789_.-/:") != "" || strings.ContainsAny(tag, "/:"):
		return fmt.Errorf("-image %q: what comes after the host has letters, digits, '_', '.', '-', '/' and one ':' alone", name)
	}
	return nil
}

const letters = "abcdefghijklmnopqrstuvwxyz"

// build compiles the programs and writes the archive. It returns the digest by which the image is known.
func build(ctx context.Context, o options, progress io.Writer) (string, error) {
	folder := filepath.Dir(o.out)
	var images []image
	for _, p := range o.platforms {
		fmt.Fprintf(progress, "building for %s\n", p)
		built := filepath.Join(folder, p.os+"-"+p.arch)
		files, from, err := compile(ctx, built, p, progress)
		if err != nil {
			return "", fmt.Errorf("build for %s: %w", p, err)
		}
		l, err := newLayer(files, from.time)
		if err != nil {
			return "", fmt.Errorf("put the programs for %s into a layer: %w", p, err)
		}
		images = append(images, image{p, l, from})
	}
	a, err := newArchive(o.image, images)
	if err != nil {
		return "", err
	}
	return a.digest, writeFile(o.out, a)
}

// writeFile makes the archive beside its place and renames it: whoever reads it finds a whole one.
func writeFile(path string, a *archive) error {
	fresh, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = errors.Join(a.write(fresh), fresh.Chmod(0o644), fresh.Close())
	if err == nil {
		err = os.Rename(fresh.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(fresh.Name()))
	}
	return nil
}
