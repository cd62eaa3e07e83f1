package etcd_test

import (
	"encoding/hex"
	"testing"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/store/etcd"
)

// Policies as versions wrote them that knew one policy alone, without author, tests, earlier revisions and shadow.
var formerPolicies = map[string]string{
	"policies/routing/revisions/5f2a77c0d1e94b36": "326a0a2b706f6c69636965732f726f7574696e672f7265766973696f6e732f35663261373763306431653934623336122c0a0c726f7574696e672e7265676f121c7061636b6167652063686172746572676174652e726f7574696e670a1a056669727374220608c0c28ed806",
	"policies/routing":                            "2a470a10706f6c69636965732f726f7574696e67122b706f6c69636965732f726f7574696e672f7265766973696f6e732f35663261373763306431653934623336320608c0c28ed806",
}

func TestControlReadsFormerPolicies(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	for name, record := range formerPolicies {
		value, err := hex.DecodeString(record)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Put(t.Context(), etcd.Prefix+"ctl/"+name, string(value)); err != nil {
			t.Fatal(err)
		}
	}
	c := openControl(t, client)
	s := c.Snapshot()
	p, r := s.Policy(charter.RoutingPolicy), s.PolicyRevision(charter.RoutingPolicy, "5f2a77c0d1e94b36")
	if p == nil || p.Active != "5f2a77c0d1e94b36" || p.Updated.Unix() != 1795400000 || len(p.Earlier) != 0 || p.Shadow != "" {
		t.Errorf("the policy is %+v", p)
	}
	if r == nil || r.Message != "first" || r.Modules["routing.rego"] != "package chartergate.routing\n" || r.Author != "" || r.Created.Unix() != 1795400000 {
		t.Errorf("the revision is %+v", r)
	}
	next := &charter.PolicyRevision{Policy: charter.RoutingPolicy, Hash: "5f2a77c1", Modules: r.Modules}
	s, err := c.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		return []charter.Change{charter.Set(next), charter.Set(p.Activated(p.ID, next.Hash))}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if p = s.Policy(charter.RoutingPolicy); p.Active != next.Hash || len(p.Earlier) != 1 || p.Earlier[0] != r.Hash {
		t.Errorf("after an activation the policy is %+v", p)
	}
}
