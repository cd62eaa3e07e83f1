package main

import (
	"encoding/json"
	"testing"
)

func TestPolicySchema(t *testing.T) {
	c := cli{t: t}
	for _, name := range []string{"input", "decision"} {
		var schema map[string]any
		if err := json.Unmarshal([]byte(c.ok("policy", "schema", name)), &schema); err != nil || schema["$id"] != "https://chartergate.dev/schemas/policy/v1/"+name+".json" {
			t.Errorf("the schema %s has the id %v, %v", name, schema["$id"], err)
		}
	}
	c.fails(exitUsage, []string{"there are decision and input"}, "policy", "schema", "output")
}
