package billing

import (
	"regexp"
	"strings"

	"github.com/chartergate/chartergate/core/bill"
)

var (
	regionPrefix = regexp.MustCompile(`^(?:[A-Z]{2,3}[0-9]|EU|[A-Z]{3}[0-9]-[A-Z0-9]+)-`)
	// classMark is where the model's name ends in the usage type of Bedrock: `Claude3Sonnet-input-tokens-batch`.
	classMark   = regexp.MustCompile(`(?i)[-_ ](?:mantle[-_]|text[-_]|image[-_]|audio[-_]|speech[-_]|video[-_])*(?:cache[-_]?(?:read|write)|input|output|inputtoken|outputtoken|provisioned|model[-_]?units?|created[-_]?image|batch|custom)`)
	instance    = regexp.MustCompile(`(?i)\b(ml\.[a-z0-9-]+\.[a-z0-9]+)\b`)
	edition     = regexp.MustCompile(`(?i)\s*\((?:amazon )?bedrock edition\)\s*`)
	onlyClasses = regexp.MustCompile(`(?i)^(?:cache|input|output|batch|latency|reserved|provisioned|image|search)`)
)

// awsUsage reads a usage type of Bedrock or SageMaker.
func awsUsage(q *question) (answer, bool) {
	usage := q.usageType
	if usage == "" && q.provider == "AWS" {
		usage = q.meter
	}
	about := q.service + " " + q.product + " " + q.description
	switch {
	case usage == "":
		return answer{}, false
	case strings.Contains(strings.ToLower(q.service), "sagemaker"):
		m := instance.FindString(usage)
		if m == "" {
			return answer{}, true // storage and the like
		}
		return answer{model: strings.ToLower(m), class: bill.ClassCompute, tier: sageMakerUse(usage)}, true
	case !strings.Contains(strings.ToLower(about), "bedrock") && !strings.Contains(usage, "InputToken") && !strings.Contains(usage, "OutputToken"):
		return answer{}, false
	}
	rest := regionPrefix.ReplaceAllString(usage, "")
	a := answer{class: classOf(rest), tier: tierOf(rest)}
	if a.class == bill.ClassEmbedding || a.class == "" && strings.Contains(strings.ToLower(about), "embed") {
		a.class = bill.ClassEmbedding // which have input only
	}
	marketplace := strings.HasPrefix(rest, "MP:")
	name := strings.TrimPrefix(rest, "MP:")
	if marketplace {
		name = regexp.MustCompile(`^[A-Z0-9]+_`).ReplaceAllString(name, "")
	}
	switch at := classMark.FindStringIndex(name); {
	case onlyClasses.MatchString(name) || marketplace:
		a.model = strings.TrimSpace(edition.ReplaceAllString(q.product, ""))
		if a.model == "" || strings.EqualFold(a.model, "amazon bedrock") {
			a.model = dashes(models.FindString(q.description))
		}
	case at != nil:
		a.model = name[:at[0]]
	default:
		a.model = dashes(models.FindString(name))
	}
	if a.class == "" && a.model == "" {
		return answer{}, true // guardrails, knowledge bases, agents
	}
	if a.multiplier = a.perUnit(q); a.multiplier == 0 && a.class != "" && a.class != bill.ClassCompute {
		a.multiplier = 1
	}
	return a, true
}

// sageMakerUse is what an instance is used for.
func sageMakerUse(usage string) string {
	lower := strings.ToLower(usage)
	for _, u := range []struct{ mark, name string }{
		{"host", "hosting"}, {"train", "training"}, {"notebk", "notebook"}, {"processing", "processing"}, {"tsform", "transform"}, {"async", "hosting"}, {"studio", "studio"},
		{"reserved", "reserved"},
	} {
		if strings.Contains(lower, u.mark) {
			return u.name
		}
	}
	return ""
}
