package convert

import (
	"github.com/chartergate/chartergate/core/complexity"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Complexity is how hard a call is, 1 to 100: as it says itself, or else by the features of its prompt; 0 if it has
// neither.
func Complexity(c *chartergatev1.Call) int32 {
	if c.GetComplexity() != 0 || c.GetPromptFeatures() == nil {
		return c.GetComplexity()
	}
	f := FeaturesFromProto(c.GetPromptFeatures())
	return complexity.Score(&f, c.GetTaskClass(), c.GetEstimate().GetInputTokens())
}

// FeaturesFromProto converts the features of a prompt.
func FeaturesFromProto(p *chartergatev1.PromptFeatures) complexity.Features {
	c := p.GetCues()
	return complexity.Features{
		Bytes:        p.GetBytes(),
		Words:        p.GetWords(),
		Sentences:    p.GetSentences(),
		Lines:        p.GetLines(),
		CodeLines:    p.GetCodeLines(),
		Digits:       p.GetDigits(),
		MathSigns:    p.GetMathSigns(),
		Questions:    p.GetQuestions(),
		Choices:      p.GetChoices(),
		Examples:     p.GetExamples(),
		Constraints:  p.GetConstraints(),
		Names:        p.GetNames(),
		Letters:      p.GetLetters(),
		OtherScripts: p.GetOtherScripts(),
		Accents:      p.GetAccents(),
		Cues: [complexity.CueCount]int32{
			complexity.Classify:      c.GetClassify(),
			complexity.Extract:       c.GetExtract(),
			complexity.Translate:     c.GetTranslate(),
			complexity.Summarize:     c.GetSummarize(),
			complexity.Rewrite:       c.GetRewrite(),
			complexity.Explain:       c.GetExplain(),
			complexity.Write:         c.GetWrite(),
			complexity.Compute:       c.GetCompute(),
			complexity.Implement:     c.GetImplement(),
			complexity.Debug:         c.GetDebug(),
			complexity.Design:        c.GetDesign(),
			complexity.Prove:         c.GetProve(),
			complexity.Optimize:      c.GetOptimize(),
			complexity.Reason:        c.GetReason(),
			complexity.Fact:          c.GetFact(),
			complexity.AdvancedMath:  c.GetAdvancedMath(),
			complexity.ExpertScience: c.GetExpertScience(),
			complexity.Tools:         c.GetTools(),
		},
	}
}

// FeaturesToProto converts the features of a prompt.
func FeaturesToProto(f *complexity.Features) *chartergatev1.PromptFeatures {
	return &chartergatev1.PromptFeatures{
		Bytes:        f.Bytes,
		Words:        f.Words,
		Sentences:    f.Sentences,
		Lines:        f.Lines,
		CodeLines:    f.CodeLines,
		Digits:       f.Digits,
		MathSigns:    f.MathSigns,
		Questions:    f.Questions,
		Choices:      f.Choices,
		Examples:     f.Examples,
		Constraints:  f.Constraints,
		Names:        f.Names,
		Letters:      f.Letters,
		OtherScripts: f.OtherScripts,
		Accents:      f.Accents,
		Cues: &chartergatev1.PromptCues{
			Classify:      f.Cues[complexity.Classify],
			Extract:       f.Cues[complexity.Extract],
			Translate:     f.Cues[complexity.Translate],
			Summarize:     f.Cues[complexity.Summarize],
			Rewrite:       f.Cues[complexity.Rewrite],
			Explain:       f.Cues[complexity.Explain],
			Write:         f.Cues[complexity.Write],
			Compute:       f.Cues[complexity.Compute],
			Implement:     f.Cues[complexity.Implement],
			Debug:         f.Cues[complexity.Debug],
			Design:        f.Cues[complexity.Design],
			Prove:         f.Cues[complexity.Prove],
			Optimize:      f.Cues[complexity.Optimize],
			Reason:        f.Cues[complexity.Reason],
			Fact:          f.Cues[complexity.Fact],
			AdvancedMath:  f.Cues[complexity.AdvancedMath],
			ExpertScience: f.Cues[complexity.ExpertScience],
			Tools:         f.Cues[complexity.Tools],
		},
	}
}
