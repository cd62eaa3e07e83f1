package bill

import (
	"regexp"
	"strings"
)

// Names matches what bills call providers and models with what the ledger calls them.
type Names struct {
	models    map[string]string // by the folded name: the ledger's
	providers map[string]string // by the ledger's group name
	pairs     map[[2]string]bool
	any       map[string]string // by model: the provider of its only spend
	alias     map[string]string
}

// NewNames learns the names of the ledger. aliases turn a bill's name of a provider or model into the ledger's.
func NewNames(spends []Spend, aliases map[string]string) *Names {
	n := &Names{map[string]string{}, map[string]string{}, map[[2]string]bool{}, map[string]string{}, aliases}
	for _, s := range spends {
		n.models[foldModel(s.Model)] = s.Model
		n.providers[group(s.Provider)] = s.Provider
		n.pairs[[2]string{s.Provider, s.Model}] = true
		if p, ok := n.any[s.Model]; ok && p != s.Provider {
			n.any[s.Model] = "\x00" // several
		} else {
			n.any[s.Model] = s.Provider
		}
	}
	return n
}

// Match gives the ledger's names of what a bill calls a provider and model; the bill's own where there are none. The model
// decides: where only one provider of the ledger has it, and the ledger does not know the bill's provider, it is that.
func (n *Names) Match(provider, model string) (string, string) {
	if a, ok := n.alias[model]; ok {
		model = a
	} else if m, ok := n.models[foldModel(model)]; ok {
		model = m
	}
	if a, ok := n.alias[provider]; ok {
		return a, model
	}
	if p, ok := n.providers[group(provider)]; ok && n.pairs[[2]string{p, model}] {
		return p, model
	}
	if p, ok := n.any[model]; ok && p != "\x00" {
		if _, known := n.providers[group(provider)]; !known || p == "" {
			return p, model
		}
	}
	if p, ok := n.providers[group(provider)]; ok {
		return p, model
	}
	return provider, model
}

var (
	vendor  = regexp.MustCompile(`^(?:(?:us|eu|apac|global|au|jp)\.)?(?:anthropic|amazon|meta|mistral|cohere|ai21|openai|deepseek|qwen|google|publishers/[a-z]+/models)[./]`)
	version = regexp.MustCompile(`(?:[-@ ](?:20[0-9]{6}|20[0-9]{2}-[0-9]{2}-[0-9]{2}|latest|preview|v[0-9]+(?::[0-9]+)?))+$`)
)

// foldModel makes names of a model comparable: `anthropic.claude-3-5-sonnet-20241022-v2:0` and `Claude3.5Sonnet` are the
// same.
func foldModel(name string) string {
	name = vendor.ReplaceAllString(strings.ToLower(strings.TrimSpace(name)), "")
	name = version.ReplaceAllString(name, "")
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127 {
			return r
		}
		return -1
	}, name)
}

// groups are names of one provider's services.
var groups = []struct{ name, marks string }{
	{"aws", "amazon aws bedrock sagemaker"}, {"azure", "microsoft azure"}, {"google", "google gcp vertex gemini"}, {"openai", "openai"}, {"anthropic", "anthropic claude"},
	{"mistral", "mistral"}, {"cohere", "cohere"}, {"xai", "xai"}, {"oracle", "oracle oci"},
}

func group(provider string) string {
	lower := strings.ToLower(provider)
	for _, g := range groups {
		for mark := range strings.FieldsSeq(g.marks) {
			if strings.Contains(lower, mark) {
				return g.name
			}
		}
	}
	return strings.TrimSpace(lower)
}
