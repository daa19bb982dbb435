// Package examples holds YAML as users write it. The demo runs it as it is.
package examples

import "embed"

// Files are the examples by name.
//
//go:embed *.yaml
var Files embed.FS
