// Package complexity estimates how hard a prompt is from features that are cheap to count and tell nothing of what it
// says. The prompt is neither kept nor returned.
package complexity

import (
	"bytes"
	"math"
	"unicode"
	"unicode/utf8"
)

// ScanLimit is how much of a prompt is looked at, in bytes. Of the rest only the length counts.
const ScanLimit = 64 << 10

// Features are counts over the first ScanLimit bytes of a prompt. None of them can be turned back into its words.
type Features struct {
	Bytes        int64 // of the whole prompt, as UTF-8
	Words        int32
	Sentences    int32
	Lines        int32
	CodeLines    int32 // in code fences, or that look like code
	Digits       int32
	MathSigns    int32
	Questions    int32 // question marks
	Choices      int32 // lines such as `B) …`, or letters in brackets
	Examples     int32 // lines such as `Input: …` or `Q: …`
	Constraints  int32 // must, exactly, without …, and items of lists
	Names        int32 // capitalised words within sentences
	Letters      int32
	OtherScripts int32 // letters that are not Latin
	Accents      int32 // Latin letters with marks
	// Words by kind.
	Cues [CueCount]int32
}

// Cue is a kind of words that say what is asked.
type Cue int

// Cues, in the order of the API.
const (
	Classify Cue = iota
	Extract
	Translate
	Summarize
	Rewrite
	Explain
	Write
	Compute   // solve, calculate, how many
	Implement // code is asked for
	Debug
	Design // architectures, plans, strategies
	Prove
	Optimize
	Reason        // why, compare, step by step, trade-off
	Fact          // who, when, where
	AdvancedMath  // terms of mathematics above school
	ExpertScience // terms of the sciences, medicine and law
	Tools         // an agent's words: tool calls, repositories, tickets
	CueCount
)

// Of counts the features of a prompt. It does not allocate and keeps nothing of the prompt. What is not UTF-8 counts as
// neither words nor letters.
func Of(prompt string) Features {
	s := scanner{lineStart: true, sentenceStart: true}
	s.f.Bytes = int64(len(prompt))
	text := prompt[:min(len(prompt), ScanLimit)]
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			s.ascii(c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		s.wide(r, size)
		i += size
	}
	s.endWord()
	s.endLine()
	if s.text { // the last sentence may lack its stop
		add(&s.f.Sentences, 1)
	}
	return s.f
}

const longest = 40 // bytes of a word that is looked up

// scanner is the state of the one pass.
type scanner struct {
	f Features

	word       [longest]byte // in lower case
	size       int           // bytes of the word, more than longest if it is too long to be looked up
	letters    int           // of the word
	capital    bool
	previous   term // of the word before
	ideograph  rune // the one before, in a script without spaces between words
	afterFirst bool // the line has a word already

	lineStart     bool
	sentenceStart bool
	text          bool // something since the last stop
	fence         bool
	ticks         int
	firstOfLine   term
	item          bool // the line begins as an item of a list
	lone          byte // a single letter or digits, so far, at the start of the line
	last          byte // character of the line that is not a space
	length        int  // of the line, without spaces
}

func add(n *int32, by int32) {
	if *n <= math.MaxInt32-by {
		*n += by
	}
}

func (s *scanner) ascii(c byte) {
	switch {
	case 'a' <= c && c <= 'z':
		s.letter(c, false)
		add(&s.f.Letters, 1)
	case 'A' <= c && c <= 'Z':
		s.letter(c+'a'-'A', true)
		add(&s.f.Letters, 1)
	case c == '\n':
		s.endWord()
		s.endLine()
		return
	case c == ' ' || c == '\t' || c == '\r':
		s.endWord()
		return
	default:
		s.sign(c)
	}
	s.seen(c)
}

// seen takes a character that is not a space.
func (s *scanner) seen(c byte) {
	if c == '`' {
		if s.ticks++; s.ticks == 3 && s.length == 2 {
			s.fence = !s.fence
		}
	} else {
		s.ticks = 0
	}
	s.length++
	s.last = c
	s.text = s.text || c != '.' && c != '!' && c != '?'
}

func (s *scanner) letter(c byte, capital bool) {
	if s.letters == 0 {
		s.capital = capital
		if s.length == 0 || s.length == 1 && s.last == '(' {
			s.lone = c
		}
	}
	if s.size < longest {
		s.word[s.size] = c
	}
	s.size++
	s.letters++
}

func (s *scanner) sign(c byte) {
	switch {
	case '0' <= c && c <= '9':
		if s.letters == 0 && s.length == 0 {
			s.lone = '0'
		}
		s.endWord()
		add(&s.f.Digits, 1)
		return
	case c == '-' && s.letters > 0, c == '_' && s.letters > 0, c == '\'' && s.letters > 0:
		if c == '\'' { // don't
			return
		}
	case bytes.IndexByte([]byte("+*/=^<>%\\$|~"), c) >= 0:
		add(&s.f.MathSigns, 1)
	case c == '?':
		add(&s.f.Questions, 1)
	}
	if c == ')' || c == '.' || c == ':' {
		if s.letters == 1 && s.lone != 0 && s.lone <= 'h' && s.lone >= 'a' && s.length <= 2 {
			add(&s.f.Choices, 1)
		} else if s.lone == '0' && s.length <= 2 || c == ':' && s.exampleLine() {
			s.item = s.lone == '0'
		}
	}
	if (c == '-' || c == '*') && s.length == 0 {
		s.item = true
	}
	s.endWord()
	if (c == '.' || c == '!' || c == '?') && s.text {
		add(&s.f.Sentences, 1)
		s.text, s.sentenceStart = false, true
	}
}

// wideLetter takes a letter that is not ASCII.
func (s *scanner) wideLetter(r rune) {
	if s.letters == 0 {
		s.capital = false
		if s.length == 0 {
			s.lone = '~'
		}
	}
	r = unicode.ToLower(r)
	if n := utf8.RuneLen(r); n > 0 && s.size+n <= longest {
		utf8.EncodeRune(s.word[s.size:], r)
		s.size += n
	} else {
		s.size = longest + 1
	}
	s.letters++
}

// exampleLine counts a line that begins as an example does: one word and a colon.
func (s *scanner) exampleLine() bool {
	if s.afterFirst || s.size == 0 || s.size > longest {
		return false
	}
	if t := terms[string(s.word[:s.size])]; t.kind == example {
		add(&s.f.Examples, 1)
		return true
	}
	return false
}

// wide takes a character that is not ASCII.
func (s *scanner) wide(r rune, size int) {
	switch {
	case r == utf8.RuneError && size == 1:
		s.endWord()
		return
	case unicode.IsLetter(r):
		add(&s.f.Letters, 1)
		switch {
		case r < 0x250:
			add(&s.f.Accents, 1)
			s.wideLetter(r)
		case r < 0x2e80:
			add(&s.f.OtherScripts, 1)
			s.wideLetter(r)
		default: // scripts that put no spaces between words: about two letters a word
			add(&s.f.OtherScripts, 1)
			before := s.ideograph
			if s.letters >= 2 {
				s.endWord()
			}
			s.wideLetter(r)
			s.ideograph = r
			if t := pairs[[2]rune{before, r}]; t.kind != plain && !s.fence {
				s.count(t)
			}
		}
	case r == '。' || r == '？' || r == '！' || r == '؟' || r == '।':
		s.endWord()
		if r == '？' || r == '؟' {
			add(&s.f.Questions, 1)
		}
		if s.text {
			add(&s.f.Sentences, 1)
			s.text = false
		}
		return
	case r == '’':
		return
	case r == '•' && s.length == 0:
		s.item = true
	case unicode.Is(unicode.Sm, r) || 'α' <= r && r <= 'ω':
		s.endWord()
		add(&s.f.MathSigns, 1)
	default:
		s.endWord()
		if unicode.IsSpace(r) {
			return
		}
	}
	s.seen('~')
}

func (s *scanner) endWord() {
	if s.letters == 0 {
		return
	}
	add(&s.f.Words, 1)
	var t term
	if s.size <= longest {
		t = terms[string(s.word[:s.size])]
		if !s.fence {
			s.count(t)
		}
	}
	if s.capital && !s.sentenceStart && t.kind == plain && s.letters > 1 && !s.fence {
		add(&s.f.Names, 1)
	}
	if !s.afterFirst {
		s.firstOfLine, s.afterFirst = t, true
	}
	s.sentenceStart = false
	s.previous, s.letters, s.size, s.capital, s.ideograph = t, 0, 0, false, 0
}

// count takes a word by what it and the one before mean.
func (s *scanner) count(t term) {
	switch t.kind {
	case cue:
		add(&s.f.Cues[t.cue], 1)
	case constraint:
		add(&s.f.Constraints, 1)
	case second: // counts only after its first
		if s.previous.kind == first && s.previous.pair == t.pair {
			if t.constrains {
				add(&s.f.Constraints, 1)
			} else {
				add(&s.f.Cues[t.cue], 1)
			}
		}
	}
}

func (s *scanner) endLine() {
	if s.length > 0 {
		add(&s.f.Lines, 1)
		ends := s.last == ';' || s.last == '{' || s.last == '}'
		opens := s.firstOfLine.code && (ends || s.last == ':' || s.last == ')' || s.last == '(' || s.last == ',' || s.last == ']')
		if s.fence || ends || opens {
			add(&s.f.CodeLines, 1)
		}
		if s.item {
			add(&s.f.Constraints, 1)
		}
	}
	s.firstOfLine, s.afterFirst, s.item, s.lone, s.last, s.length, s.ticks = term{}, false, false, 0, 0, 0, 0
	s.sentenceStart = true
}
