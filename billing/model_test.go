package billing

import (
	"testing"

	"github.com/chartergate/chartergate/core/bill"
)

func TestUsageTypesOfAWS(t *testing.T) {
	for _, c := range []struct {
		service, usage, product, description, unit string
		model, class, tier, region                 string
		multiplier                                 int64
	}{
		{"AmazonBedrock", "USE1-Claude3Sonnet-input-tokens", "", "", "1K tokens", "Claude3Sonnet", bill.ClassInput, "", "us-east-1", 1000},
		{"AmazonBedrock", "USE1-Claude3Sonnet-output-tokens-batch", "", "", "1K tokens", "Claude3Sonnet", bill.ClassOutput, "batch", "us-east-1", 1000},
		{"AmazonBedrock", "USW2-Claude3.5Sonnet-cache-read-input-token-count", "", "", "1K tokens", "Claude3.5Sonnet", bill.ClassCacheRead, "", "us-west-2", 1000},
		{"AmazonBedrock", "EUC1-NovaPro-cache-write-input-token-count", "", "", "1K tokens", "NovaPro", bill.ClassCacheWrite, "", "eu-central-1", 1000},
		{"AmazonBedrock", "APN1-Nova2.0Lite-text-input-tokens-flex", "", "", "1K tokens", "Nova2.0Lite", bill.ClassInput, "flex", "ap-northeast-1", 1000},
		{"AmazonBedrock", "USE1-Llama3-3-70B-input-tokens-latency-optimized", "", "", "1K tokens", "Llama3-3-70B", bill.ClassInput, "latency-optimized", "us-east-1", 1000},
		{"AmazonBedrock", "USE1-TitanEmbeddingV2-Text-input-tokens", "", "", "1K tokens", "TitanEmbeddingV2", bill.ClassEmbedding, "", "us-east-1", 1000},
		{"AmazonBedrock", "USE1-openai.gpt-oss-120b-mantle-input-tokens-standard", "", "", "1M tokens", "openai.gpt-oss-120b", bill.ClassInput, "", "us-east-1", 1000000},
		{"7g37rsrbs3a9nnq8ltz0xsqqm", "USE1-MP:USE1_InputTokenCount-Units", "Claude 3.5 Sonnet (Amazon Bedrock Edition)", "AWS Marketplace software usage|us-east-1|Million Input Tokens", "Units",
			"Claude 3.5 Sonnet", bill.ClassInput, "", "us-east-1", 1000000},
		{"7g37rsrbs3a9nnq8ltz0xsqqm", "USW2-MP:USW2_CacheReadInputTokenCount-Units", "Claude Sonnet 4.5 (Amazon Bedrock Edition)", "Million Cache Read Input Tokens", "Units",
			"Claude Sonnet 4.5", bill.ClassCacheRead, "", "us-west-2", 1000000},
		{"AmazonSageMaker", "USE1-Host:ml.g5.xlarge", "", "", "Hrs", "ml.g5.xlarge", bill.ClassCompute, "hosting", "us-east-1", 0},
		{"AmazonSageMaker", "EU-Train:ml.p4d.24xlarge", "", "", "Hrs", "ml.p4d.24xlarge", bill.ClassCompute, "training", "eu-west-1", 0},
		{"AmazonSageMaker", "USE1-Host:VolumeUsage.gp2", "", "", "GB-Mo", "", "", "", "us-east-1", 0},
		{"AmazonBedrock", "USE1-Guardrail-ContentPolicyUnitsConsumed", "", "", "TextUnits", "", "", "", "us-east-1", 0},
		{"AmazonEC2", "USW2-BoxUsage:t3.large", "", "", "Hrs", "", "", "", "us-west-2", 0},
	} {
		a := classify(&question{provider: "AWS", service: c.service, usageType: c.usage, product: c.product, description: c.description, unit: c.unit})
		if a.model != c.model || a.class != c.class || a.tier != c.tier || a.multiplier != c.multiplier || awsRegion(c.usage) != c.region {
			t.Errorf("%s is %+v in %s", c.usage, a, awsRegion(c.usage))
		}
	}
}

func TestMetersOfOthers(t *testing.T) {
	for _, c := range []struct {
		q            question
		model, class string
		multiplier   int64
	}{
		{question{service: "Cognitive Services", product: "Azure OpenAI", meter: "gpt-4o-0806-Inp-glbl Tokens", unit: "1K"}, "gpt-4o", bill.ClassInput, 1000},
		{question{service: "Cognitive Services", product: "Azure OpenAI", meter: "gpt-4o-mini-0718-cached-Inp-glbl Tokens", unit: "1K"}, "gpt-4o-mini", bill.ClassCacheRead, 1000},
		{question{service: "Azure OpenAI", meter: "gpt 4.1 mini Outp glbl Tokens", unit: "1M"}, "gpt-4.1-mini", bill.ClassOutput, 1000000},
		{question{service: "Azure OpenAI", meter: "o3 mini 0131 cached Inp glbl Tokens", unit: "1K"}, "o3-mini", bill.ClassCacheRead, 1000},
		{question{service: "Foundry Models", meter: "text-embedding-3-small Tokens", unit: "1K"}, "text-embedding-3-small", bill.ClassEmbedding, 1000},
		{question{service: "Vertex AI", meter: "Gemini 2.0 Flash Text Input - Predictions", unit: "count"}, "gemini-2.0-flash", bill.ClassInput, 1},
		{question{service: "Vertex AI", meter: "Gemini 2.5 Pro Thinking Text Output - Predictions", unit: "count"}, "gemini-2.5-pro-thinking", bill.ClassOutput, 1},
		{question{service: "Claude Sonnet 4", category: "AI and Machine Learning", meter: "Claude Sonnet 4 input tokens", unit: "Tokens"}, "claude-sonnet-4", bill.ClassInput, 1},
		{question{service: "OpenAI API", meter: "gpt-4o-mini-2024-07-18, output", unit: "Tokens"}, "gpt-4o-mini", bill.ClassOutput, 1},
		{question{service: "Inference", meter: "acme-small input tokens", unit: "1M Tokens"}, "acme-small", bill.ClassInput, 1000000},
		{question{service: "Inference", sku: "chat-large-output", unit: "Tokens"}, "chat-large", bill.ClassOutput, 1},
		{question{service: "OpenAI", model: "my-model", class: "output", unit: "Tokens"}, "my-model", bill.ClassOutput, 1},
		{question{service: "Virtual Machines", meter: "D3 v2/DS3 v2", unit: "1 Hour"}, "", "", 0},
		{question{service: "Storage", meter: "All Other Operations", unit: "10K"}, "", "", 0},
	} {
		a := classify(&c.q)
		if a.model != c.model || a.class != c.class || a.multiplier != c.multiplier {
			t.Errorf("%s %s %s: %+v", c.q.service, c.q.meter, c.q.sku, a)
		}
	}
}
