// Package openapi holds the generated OpenAPI description of the REST API.
package openapi

import _ "embed"

// JSON is the description, OpenAPI 2.0.
//
//go:embed chartergate.swagger.json
var JSON []byte
