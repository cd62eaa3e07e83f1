package main

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// aPolicy writes a folder with a policy that names one tier and says so.
func aPolicy(t *testing.T, tier string) string {
	t.Helper()
	dir := t.TempDir()
	text := "package chartergate.routing\n\ndecision := {\n\t\"effect\": \"allow\",\n\t\"tiers\": [\"" + tier + "\"],\n\t\"reasons\": [\"Of " + tier + ".\"],\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "routing.rego"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

var policyRevision = regexp.MustCompile(`policies/[a-z.-]+/revisions/[0-9a-f]{16}`)

func TestPolicyLifecycle(t *testing.T) {
	addr, _ := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	create := func(dir, policy string, more ...string) string {
		return c.ok(append([]string{"policy", "create", dir, "--policy", policy, "--message", "because", "--author", "ada"}, more...)...)
	}
	economy, standard := aPolicy(t, "economy"), aPolicy(t, "standard")
	first := policyRevision.FindString(create(economy, "team.developer-experience"))
	c.contains(create(standard, "team.developer-experience", "--activate", "--wait"), " decides (etag ", "1 server decides by it after ")
	check := func() string {
		_, out, _ := c.run("", "check", "--feature", "code-assistant", "--task-class", "code", "--input-tokens", "100", "--max-output-tokens", "100", "-o", "json")
		return out
	}
	c.contains(check(), `"tier": "standard"`, "Of standard.", "policies/team.developer-experience/revisions/")

	c.contains(c.ok("policy", "list"), "builtin/", "ships with the server", "team.developer-experience  team", "ada", "because")
	list := c.ok("policy", "list", "team.developer-experience")
	c.contains(list, hashOf(first), "yes")
	if strings.Count(list, "\n") != 3 {
		t.Errorf("the list is\n%s", list)
	}
	in := []string{"--policy", "team.developer-experience"}
	c.contains(c.ok(append([]string{"policy", "diff", hashOf(first)[:6]}, in...)...), "--- policies/team.developer-experience/revisions/", "+++ "+first+"/routing.rego",
		"-\t\"tiers\": [\"standard\"],", "+\t\"tiers\": [\"economy\"],")
	c.contains(c.ok(append([]string{"policy", "diff", standard}, in...)...), "have the same files")
	c.contains(c.ok("policy", "diff", economy, standard), "--- "+economy+"/routing.rego")
	c.contains(c.ok("policy", "show", first), "active    no", "author    ada", "--- routing.rego", "\t\"tiers\": [\"economy\"],")
	c.contains(c.ok("policy", "show", "routing"), "revision  builtin/", "--- routing.rego")

	// The feature's policy can only narrow the team's.
	create(economy, "feature.code-assistant", "--activate", "--wait")
	c.contains(check(), `"effect": "EFFECT_DENY"`, "No tier or model is left that these policies all permit: team, feature.")
	c.contains(c.ok(append([]string{"policy", "activate", hashOf(first), "--wait"}, in...)...), first+" decides")
	c.contains(check(), `"tier": "economy"`, first+", policies/feature.code-assistant/revisions/")
	c.fails(exitFailed, []string{"charters/code-assistant is used by policies/feature.code-assistant"}, "delete", "charter", "code-assistant")
	c.contains(c.ok("policy", "delete", "feature.code-assistant"), "- policies/feature.code-assistant deleted")
	c.contains(c.ok("policy", "rollback", "team.developer-experience", "--wait"), "decides again")
	c.contains(check(), `"tier": "standard"`)
	c.contains(c.ok("status"), "policies ", "and 1 other decide, of revision ")

	// What get writes, apply reads again.
	_, out, errs := c.run(c.ok("get", "policies", "-o", "yaml"), "apply", "-f", "-")
	c.contains(out+errs, "0 created, 0 updated, 2 unchanged")

	c.fails(exitFailed, []string{"no revision of policies/team.developer-experience was active before"}, "policy", "rollback", "team.developer-experience")
	c.fails(exitFailed, []string{"etag"}, "policy", "activate", first, "--etag", "1")
	c.fails(exitFailed, []string{"charters/nobody"}, "policy", "create", economy, "--policy", "feature.nobody", "-m", "x", "--activate")
	c.fails(exitFailed, []string{"has no revision 0123"}, append([]string{"policy", "show", "0123"}, in...)...)
	c.fails(exitUsage, []string{"is not a policy", "team.TEAM"}, "policy", "list", "support")
	c.fails(exitUsage, []string{"--message is required"}, "policy", "create", economy)
	c.fails(exitFailed, []string{"has no file of Rego"}, "policy", "create", t.TempDir(), "-m", "x")
	c.fails(exitFailed, []string{"there is no directory nowhere"}, "policy", "create", "nowhere", "-m", "x")
	cli{t: t}.fails(exitUsage, []string{"unknown command \"craete\""}, "policy", "craete")
}

// Three servers of their own processes: the command waits until all decide by what it activated.
func TestPolicyActivatesOnAllServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three servers and an etcd")
	}
	endpoint := startEtcd(t)
	servers := []*replica{startReplica(t, endpoint), startReplica(t, endpoint), startReplica(t, endpoint)}
	status := func(r *replica) []*pb.Replica {
		st, err := pb.NewOperationsServiceClient(r.Conn()).GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetReplicas()
	}
	soonTrue(t, 20*time.Second, "every server knows all", func() bool {
		return !slices.ContainsFunc(servers, func(r *replica) bool { return len(status(r)) != 3 })
	})
	c := cli{t, []string{"--server", servers[0].grpcAddr}}
	var first string
	for _, tier := range []string{"economy", "standard"} {
		exit, out, errs := c.run("", "policy", "create", aPolicy(t, tier), "--policy", "team.t", "-m", "because", "--activate", "--wait")
		if exit != exitOK || errs != "note: no charter is of team t: the policy decides nothing until one is\n" {
			t.Fatalf("exit %d: %s%s", exit, out, errs)
		}
		c.contains(out, "3 servers decide by it after ")
		t.Log(out)
		first = cmp.Or(first, policyRevision.FindString(out))
	}
	out := c.ok("policy", "rollback", "team.t", "--wait")
	c.contains(out, first+" decides again", "3 servers decide by it after ")
	t.Log(out)
	for _, r := range servers {
		for _, of := range status(r) {
			if !slices.Contains(of.GetPolicyRevisions(), first) {
				t.Errorf("the status says of a server: %v", of)
			}
		}
	}
	t.Log("\n" + c.ok("status"))
}
