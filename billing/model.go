package billing

import (
	"regexp"
	"strings"

	"github.com/chartergate/chartergate/core/bill"
)

// question is what a line says that may tell which model was used, and how.
type question struct {
	provider, service, category, product, unit, usageType, operation string
	meter, sku, description, model, class, tagModel, resource        string
}

type answer struct {
	model, class, tier string
	multiplier         int64 // tokens in one of the quantity's unit; 0 for not known
}

// classifier answers questions and remembers the answers, as lines repeat them.
type classifier struct {
	seen     map[question]answer
	services map[[4]string]bool // whether these are of models
}

func newClassifier() *classifier {
	return &classifier{make(map[question]answer), make(map[[4]string]bool)}
}

// ofModels is modelServices, remembered.
func (c *classifier) ofModels(q *question) bool {
	if q.model != "" || q.tagModel != "" || strings.Contains(q.usageType, "oken") {
		return true
	}
	key := [...]string{q.service, q.product, q.category, q.unit}
	is, ok := c.services[key]
	if !ok {
		is = modelServices(q)
		if len(c.services) >= maxSeen {
			clear(c.services)
		}
		for i := range key {
			key[i] = strings.Clone(key[i])
		}
		c.services[key] = is
	}
	return is
}

func (c *classifier) answer(q *question, l *bill.Line) {
	if !c.ofModels(q) {
		return
	}
	a, ok := c.seen[*q]
	if !ok {
		a = classify(q)
		if len(c.seen) >= maxSeen {
			clear(c.seen)
		}
		c.seen[q.clone()] = a
	}
	l.Model, l.TokenClass, l.ServiceTier = a.model, a.class, a.tier
	if a.multiplier > 0 && a.model != "" {
		l.Tokens, _ = l.Quantity.Times(a.multiplier)
	}
}

func (q *question) clone() question {
	c := *q
	for _, s := range []*string{&c.provider, &c.service, &c.category, &c.product, &c.unit, &c.usageType, &c.operation, &c.meter, &c.sku, &c.description,
		&c.model, &c.class, &c.tagModel, &c.resource} {
		*s = strings.Clone(*s)
	}
	return c
}

var (
	services = regexp.MustCompile(`(?i)openai|anthropic|bedrock|vertex|gemini|generative|cognitive services|foundry|ai services|machine learning|sagemaker|mistral|cohere|deepseek|groq|together|fireworks|hugging ?face|language model|\bllm\b|\bxai\b`)
	tokens   = regexp.MustCompile(`(?i)tokens?\b`)
	models   = regexp.MustCompile(`(?i)\b(?:gpt[- ]?(?:image|oss|realtime|audio|[0-9])[0-9a-z.]*(?:[- ](?:turbo|mini|nano|pro|codex|chat|instruct|audio|realtime|transcribe|search|preview|[0-9]+b|[0-9]+k))*` +
		`|o[1-9](?:[- ](?:mini|pro|preview|deep[- ]research))*\b` +
		`|text[- ]embedding[- ](?:3[- ](?:small|large)|ada[- ]002|[0-9]{3})|embedding[- ]ada|ada[- ]v?2|embed[- ][a-z0-9.-]+|gemini[- ]embedding[- ]?[0-9]*` +
		`|gemini[- ][0-9.]+(?:[- ](?:pro|flash|lite|ultra|nano|preview|thinking|image|live))*` +
		`|claude[- ]?(?:(?:instant|opus|sonnet|haiku|fable|mythos|v?[0-9][0-9.]*)[- ]?)+` +
		`|llama[- ]?[0-9.]+(?:[- ](?:[0-9]+b|maverick|scout|instruct|vision|[0-9]+x[0-9]+b|[0-9]+e))*|mi[sx]tral[- ]?(?:large|small|medium|nemo|[0-9]+x?[0-9]*b)?[- ]?[0-9]*|codestral|ministral[- ][0-9]+b|magistral[- ]?(?:small|medium)?` +
		`|deepseek[- ]?(?:[vr][0-9.]+|chat|reasoner|coder)|(?:amazon )?nova[- ]?(?:[0-9.]+ ?)?(?:micro|lite|pro|premier|sonic|canvas|reel)|titan[- a-z0-9]*embed[a-z0-9- ]*|titan[- ]text[- a-z0-9]*?|command[- ]?(?:r\+?|a|light)[- ]?[0-9a-z-]*|grok[- ][0-9.]+(?:[- ](?:mini|fast|beta|vision))*|phi[- ][0-9.]+(?:[- ](?:mini|small|medium|moe|vision|multimodal))*|qwen[- ]?[0-9.]+[0-9a-z-]*|kimi[- ][a-z0-9.]+|jamba[- ][0-9a-z.-]+|glm[- ][0-9.]+|minimax[- ][a-z0-9.]+)`)
	classes = []struct {
		class string
		at    *regexp.Regexp
	}{
		{bill.ClassCacheWrite, regexp.MustCompile(`(?i)cache[-_ ]?(?:write|creation|storage)|cachewrite`)},
		{bill.ClassCacheRead, regexp.MustCompile(`(?i)cache[-_ ]?(?:read|hit)|cacheread|cach(?:ed?|ing)\b|cchd|\bcd[- ]?inp`)},
		{bill.ClassEmbedding, regexp.MustCompile(`(?i)embed`)},
		{bill.ClassOutput, regexp.MustCompile(`(?i)outp|\bopt\b|completion|generated|response|\bout\b`)},
		{bill.ClassInput, regexp.MustCompile(`(?i)inp|prompt|\bin\b`)},
	}
	tiers = []struct{ name, mark string }{
		{"batch", "batch"}, {"flex", "flex"}, {"priority", "priority"}, {"latency-optimized", "latency"}, {"provisioned", "provisioned"}, {"provisioned", "ptu"}, {"reserved", "reserved"},
	}
	// what is left of a usage type or meter when the words for classes are taken out
	noise  = regexp.MustCompile(`(?i)[-_: ,/(]*\b(?:cache[d]?|read|write|input|output|inp|outp|prompt|completion|tokens?|count|units?|1[km]|batch|flex|priority|standard|usage|text|per|million|thousand)\b[)]?`)
	factor = regexp.MustCompile(`(?i)^\s*(?:([0-9][0-9,]*)\s*)?(k|m|b|thousand|million|billion)?\s*(?:(?:input|output|cached|prompt|completion)?\s*tokens?)?\s*$`)
	inText = regexp.MustCompile(`(?i)(?:per |\b)(1 ?k|1,?000|1 ?m|1,?000,?000|thousand|million)\s+(?:[a-z]+ ){0,4}tokens?`)
)

func modelServices(q *question) bool {
	return services.MatchString(q.service) || services.MatchString(q.product) || services.MatchString(q.category) || q.model != "" || q.tagModel != "" ||
		tokens.MatchString(q.unit) || strings.Contains(q.usageType, "oken")
}

func classify(q *question) answer {
	if !modelServices(q) {
		return answer{}
	}
	if a, ok := awsUsage(q); ok {
		return a.named(q)
	}
	var a answer
	texts := []string{q.class, q.meter, q.sku, q.description, q.product, q.usageType}
	for _, t := range texts {
		if a.class = classOf(t); a.class != "" {
			break
		}
	}
	for _, t := range []string{q.meter, q.sku, q.description, q.product, q.usageType, q.service, q.resource} {
		if m := models.FindString(t); m != "" {
			a.model = dashes(m)
			break
		}
	}
	if a.model == "" && (tokens.MatchString(q.unit) || a.class != "" && tokens.MatchString(q.meter)) {
		for _, t := range []string{q.meter, q.sku} {
			if m := strings.Trim(noise.ReplaceAllString(t, ""), " -_:,/"); m != "" && len(m) <= 64 {
				a.model = m
				break
			}
		}
	}
	a.tier = tierOf(q.meter + " " + q.sku + " " + q.description)
	a = a.named(q)
	if a.model == "" {
		return answer{}
	}
	a.multiplier = a.perUnit(q)
	return a
}

// named takes the model that is named outright.
func (a answer) named(q *question) answer {
	if q.model != "" {
		a.model = q.model
	} else if q.tagModel != "" {
		a.model = q.tagModel
	}
	return a
}

// perUnit is how many tokens the quantity's unit is.
func (a answer) perUnit(q *question) int64 {
	if a.class == "" && !tokens.MatchString(q.unit) || a.class == bill.ClassCompute {
		return 0
	}
	if m := factor.FindStringSubmatch(q.unit); m != nil && (m[1] != "" || m[2] != "" || tokens.MatchString(q.unit)) {
		n := int64(1)
		if m[1] != "" {
			n = 0
			for _, c := range strings.ReplaceAll(m[1], ",", "") {
				if n = n*10 + int64(c-'0'); n > 1e12 {
					return 0
				}
			}
		}
		return n * scaleOf(m[2])
	}
	if strings.EqualFold(q.unit, "units") || strings.EqualFold(q.unit, "count") || q.unit == "" {
		if m := inText.FindStringSubmatch(q.description); m != nil && strings.EqualFold(q.unit, "units") {
			return scaleOf(strings.Trim(strings.NewReplacer(" ", "", ",", "").Replace(strings.TrimPrefix(m[1], "1")), " "))
		}
		return 1
	}
	return 0
}

func scaleOf(word string) int64 {
	switch strings.ToLower(word) {
	case "k", "thousand", "000":
		return 1_000
	case "m", "million", "000000":
		return 1_000_000
	case "b", "billion":
		return 1_000_000_000
	}
	return 1
}

func classOf(text string) string {
	if text == "" {
		return ""
	}
	for _, c := range classes {
		if c.at.MatchString(text) {
			return c.class
		}
	}
	return ""
}

func tierOf(text string) string {
	lower := strings.ToLower(text)
	for _, t := range tiers {
		if strings.Contains(lower, t.mark) {
			return t.name
		}
	}
	return ""
}

func dashes(model string) string {
	return strings.ToLower(strings.ReplaceAll(strings.Trim(model, " -"), " ", "-"))
}
