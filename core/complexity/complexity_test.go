package complexity_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/core/complexity"
)

func TestFeatures(t *testing.T) {
	for _, c := range []struct {
		name, prompt string
		want         func(f complexity.Features) bool
	}{
		{"nothing", "", func(f complexity.Features) bool { return f == complexity.Features{} }},
		{"words, sentences and lines", "One two. Three?\n\nFour", func(f complexity.Features) bool {
			return f.Words == 4 && f.Sentences == 3 && f.Lines == 2 && f.Questions == 1
		}},
		{"an ellipsis ends one sentence", "Well... yes.", func(f complexity.Features) bool { return f.Sentences == 2 }},
		{"a fence", "Look:\n```go\nx := 1\n```\nDone", func(f complexity.Features) bool { return f.CodeLines == 2 && f.Lines == 5 }},
		{"code without a fence", "def f(x: int) -> int:\n    return (x)\nint y = 3;\n", func(f complexity.Features) bool { return f.CodeLines == 3 }},
		{"prose that begins like code", "For all I know this is prose.\nIf not, tell me.\nReturn soon!", func(f complexity.Features) bool { return f.CodeLines == 0 }},
		{"digits and signs", "12 + 30 = 42", func(f complexity.Features) bool { return f.Digits == 6 && f.MathSigns == 2 }},
		{"choices", "Which?\nA) one\nB. two\n(C) three\n(D) four", func(f complexity.Features) bool { return f.Choices == 4 }},
		{"examples", "Input: cat\nOutput: animal\nQ: x\nThis is input: no", func(f complexity.Features) bool { return f.Examples == 3 }},
		{"constraints", "Use exactly three words, at least one noun, do not rhyme.\n- one\n2. two\n* three", func(f complexity.Features) bool { return f.Constraints == 6 }},
		{"names", "Where did Ada Lovelace live? She lived in London.", func(f complexity.Features) bool { return f.Names == 3 && f.Cues[complexity.Fact] == 1 }},
		{"cues in any case", "SUMMARIZE this, then Translate it step by step.", func(f complexity.Features) bool {
			return f.Cues[complexity.Summarize] == 1 && f.Cues[complexity.Translate] == 1 && f.Cues[complexity.Reason] == 1
		}},
		{"no cues in code", "```\nprove translate\n```", func(f complexity.Features) bool { return f.Cues == [complexity.CueCount]int32{} }},
		{"Chinese", "请把这段话翻译成英文。好吗？", func(f complexity.Features) bool {
			return f.OtherScripts == 12 && f.Letters == 12 && f.Sentences == 2 && f.Words == 6 && f.Questions == 1
		}},
		{"cues of other languages", "Übersetze das. Résume ce texte. Докажи. 请把这段话翻译成英文，并证明它。", func(f complexity.Features) bool {
			return f.Cues[complexity.Translate] == 3 && f.Cues[complexity.Summarize] == 1 && f.Cues[complexity.Prove] == 2
		}},
		{"French", "Où est l’élève?", func(f complexity.Features) bool { return f.Accents == 3 && f.OtherScripts == 0 && f.Words == 3 }},
		{"not UTF-8", "a\xff\xfeb", func(f complexity.Features) bool { return f.Words == 2 && f.Letters == 2 && f.Bytes == 4 }},
	} {
		if f := complexity.Of(c.prompt); !c.want(f) {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}

// What is beyond the limit only adds to the length.
func TestScanIsBounded(t *testing.T) {
	text := strings.Repeat("word ", complexity.ScanLimit/5+1)
	short, long := complexity.Of(text[:complexity.ScanLimit]), complexity.Of(text[:complexity.ScanLimit]+strings.Repeat("prove it? ", 1e5))
	short.Bytes, long.Bytes = 0, 0
	if short != long {
		t.Errorf("%+v with the rest, %+v without", long, short)
	}
}

func TestOfDoesNotAllocate(t *testing.T) {
	text := strings.Repeat("Prove that x² + 1 > 0, naïvely. 你好\ndef f(x): return (x)\n", 2000)
	if n := testing.AllocsPerRun(5, func() { complexity.Of(text) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestScoresAreInRangeAndRepeat(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	alphabet := []rune("aA b?.\n`;{}()1+=é中 prove step by")
	for range 2000 {
		var b strings.Builder
		for range r.IntN(300) {
			b.WriteRune(alphabet[r.IntN(len(alphabet))])
		}
		f := complexity.Of(b.String())
		class := [...]string{"", "chat", "code", "classify", "unheard of"}[r.IntN(5)]
		got := complexity.Score(&f, class, r.Int64N(1e6))
		if again := complexity.Of(b.String()); again != f || got < 1 || got > 100 {
			t.Fatalf("%q: %d, %+v and then %+v", b.String(), got, f, again)
		}
	}
}

func TestHarderPromptsScoreHigher(t *testing.T) {
	for _, c := range []struct{ class, easier, harder string }{
		{"", "Hi there!", "Explain how rain and snow form in the mountains of a dry country."},
		{"", "Label the sentiment of this review as positive or negative: I liked it.", "Write a Python function that returns the longest word of a string."},
		{"", "Write a Python function that returns the longest word of a string.", "Design a scalable distributed architecture for payments and justify the trade-offs."},
		{"chat", "Thanks, that is all.", "Prove that there are infinitely many primes congruent to 3 modulo 4."},
		{"math", "Tom has 3 apples and buys 4 more. How many apples has he?", "Find all polynomials with integer roots such that the sequence converges modulo every prime."},
		{"qa", "What colour is grass?", "Which enzyme inhibitor of the mitochondrial receptor changes the phenotype?"},
		{"qa", "What colour is grass?", "In what year did Ferdinand Hodler paint The Chosen One?"},
		{"translate", "Translate: good morning", "翻译成法语：他在图书馆里等了她三个小时，最后还是一个人回家了。"},
	} {
		a, b := complexity.Of(c.easier), complexity.Of(c.harder)
		x, y := complexity.Score(&a, c.class, 50), complexity.Score(&b, c.class, 50)
		if x >= y {
			t.Errorf("%d for %q, %d for %q", x, c.easier, y, c.harder)
		}
	}
}

func TestClass(t *testing.T) {
	for class, want := range map[string]int32{
		"classify": 10, "Classification": 10, "question-answering": 60, "Code Generation": 58, "GSM8K": 56, "customer_support_chat": 40,
		"code-review": 62, "json extraction": 16, "legal_agent": 60, "legal-summarization": 22, "classify agents": 58, "": 0, "zzz": 0, strings.Repeat("x", 1000): 0,
	} {
		if base, known := complexity.Class(class); base != want || known != (want > 0) {
			t.Errorf("%q: %d, %v, want %d", class, base, known, want)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add("Prove it.\n```\ncode\n```")
	f.Fuzz(func(t *testing.T, prompt string) {
		x := complexity.Of(prompt)
		if s := complexity.Score(&x, "", 0); s < 1 || s > 100 || int64(x.Words) > int64(len(prompt)) || int64(x.Letters) > int64(len(prompt)) {
			t.Fatalf("%d %+v", s, x)
		}
	})
}

func BenchmarkOf(b *testing.B) {
	text := strings.Repeat("Explain step by step why the function `f` fails for n = 12, and suggest a fix that keeps its signature.\n", 10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		complexity.Of(text)
	}
}
