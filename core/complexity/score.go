package complexity

// Complexities of a prompt that says nothing of its task, and of a call of which nothing is known: middle ones, the latter
// above one half, so that of two tiers the dearer one serves it.
const (
	unknownBase = 45
	nothingBase = 55
)

// cueBases are the complexities of what a prompt's own words ask for, and how much one such word weighs against others.
var cueBases = [CueCount]struct{ base, weight int32 }{
	Classify:      {12, 3},
	Extract:       {20, 2},
	Translate:     {24, 6},
	Summarize:     {24, 5},
	Rewrite:       {26, 4},
	Explain:       {44, 2},
	Write:         {42, 2},
	Compute:       {52, 1},
	Implement:     {54, 2},
	Debug:         {62, 2},
	Design:        {68, 3},
	Prove:         {84, 5},
	Optimize:      {64, 2},
	Reason:        {62, 2},
	Fact:          {50, 1},
	AdvancedMath:  {58, 2},
	ExpertScience: {64, 2},
	Tools:         {62, 1},
}

// Score estimates how hard a prompt is, 1 to 100, from its features, the class of its task ("" if it is not known) and
// its input tokens. It is deterministic. The score begins with the class, as far as that says something, and what the
// prompt's words ask for; these points come on top:
//
//	words of proofs                             6 each, at most 12
//	terms of advanced mathematics               2 each, at most 6
//	terms of the sciences, medicine, law        3 each, at most 8
//	words of reasoning, design, optimizing      3 each, at most 12
//	constraints above three                     1 each, at most 10
//	code in the prompt                          3 from 15 lines, 8 from 60, 14 from 200
//	length                                      as LengthPoints
//	another script, or marked Latin letters     8, or 4, where they are more than 20%, or 3%, of letters
//	a bare question for a fact with a name      20
//	a sum of up to 8 words and 8 digits         -30
//	up to 40 words of a hard class, none hard   -6
//	up to 12 words that ask for nothing hard    -8; up to 5 with no name in them, such as a greeting: -16
//
// A class whose answers small models get right wherever the text is given (up to 30) takes at most half of them, so that
// a classifier of science papers stays a classifier.
func Score(f *Features, class string, inputTokens int64) int32 {
	base, known := Class(class)
	if f == nil || f.Words == 0 {
		if !known {
			base = nothingBase
		}
		return clamp(base + LengthPoints(inputTokens))
	}
	asked, sure := f.asked()
	switch {
	case !known:
		base = asked
	case broad[normal(class)] && sure && asked > base: // the words may ask for more than the class says
		base = (base + 3*asked) / 4
	case broad[normal(class)] && sure:
		base = (base + asked) / 2
	}
	points := f.points()
	if points == 0 && base > 60 && f.Words <= 40 {
		points = -6
	}
	if base <= 30 && known {
		points = min(points, 24) / 2
	}
	return clamp(base + points + LengthPoints(max(inputTokens, f.Bytes/6)))
}

// LengthPoints are the points for the length of the input: small models lose the thread of long contexts first. They are
// few, since a long call is also the dearest to serve well.
func LengthPoints(inputTokens int64) int32 {
	switch {
	case inputTokens > 32_000:
		return 10
	case inputTokens > 8_000:
		return 5
	}
	return 0
}

// asked is the complexity of what the words ask for, and whether they say so: the mean of cues, by weight.
func (f *Features) asked() (base int32, sure bool) {
	var sum, weights int64
	for c, n := range f.Cues {
		w := int64(min(n, 4)) * int64(cueBases[c].weight)
		sum += w * int64(cueBases[c].base)
		weights += w
	}
	if weights < 2 {
		return unknownBase, false
	}
	return int32(sum / weights), true
}

func (f *Features) points() (p int32) {
	c := &f.Cues
	p += min(6*min(c[Prove], 9), 12)
	p += min(2*min(c[AdvancedMath], 9), 6)
	p += min(3*min(c[ExpertScience], 9), 8)
	p += min(3*(min(c[Reason], 9)+min(c[Design], 9)+min(c[Optimize], 9)), 12)
	p += min(max(f.Constraints-3, 0), 10)
	switch {
	case f.CodeLines >= 200:
		p += 14
	case f.CodeLines >= 60:
		p += 8
	case f.CodeLines >= 15:
		p += 3
	}
	switch letters := int64(f.Letters); {
	case int64(f.OtherScripts)*5 > letters:
		p += 8
	case int64(f.Accents)*33 > letters:
		p += 4
	}
	hard := p > 0 || c[Compute] > 0 || c[Implement] > 0 || c[Debug] > 0 || c[Tools] > 1
	switch {
	case f.fact() && !hard:
		p += 20
	case f.sum() && p == 0:
		p -= 30
	case f.Words <= 5 && !hard && f.Digits == 0 && f.Names == 0:
		p -= 16
	case f.Words <= 12 && !hard && f.Digits < 3:
		p -= 8
	}
	return p
}

// fact says that the prompt is a bare question for a fact about something with a name, which models know by their size.
func (f *Features) fact() bool {
	return f.Words <= 40 && f.Questions > 0 && f.Cues[Fact] > 0 && f.Names > 0 && f.Choices < 2
}

// sum says that a prompt is an exercise in arithmetic, such as `What is 15% of 80?`.
func (f *Features) sum() bool {
	c := &f.Cues
	return f.Words <= 8 && 0 < f.Digits && f.Digits <= 8 && f.MathSigns <= 3 && f.CodeLines == 0 && f.OtherScripts == 0 &&
		c[AdvancedMath]+c[Prove]+c[Implement]+c[Debug]+c[ExpertScience]+c[Tools] == 0 && f.Names == 0
}

func clamp(n int32) int32 { return min(max(n, 1), 100) }
