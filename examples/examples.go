// Package examples holds the manifests of an example company, so that the binary has them with it.
package examples

import "embed"

// FS has the manifests of the company Acme in the folder acme.
//
//go:embed acme/*.yaml
var FS embed.FS
