package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// decisionFacts tells a decision.
func decisionFacts(d *pb.Decision) facts {
	var f facts
	f.add("effect", short(d.GetEffect(), "EFFECT_"))
	if d.GetModel() != "" {
		f.add("model", fmt.Sprintf("%s (%s, %s)", d.GetModel(), d.GetTier(), d.GetProvider()))
		f.add("cost", exact(d.GetEstimatedCostNanos(), d.GetCurrency())+" at most")
	}
	var alternates []string
	for _, a := range d.GetAlternates() {
		alternates = append(alternates, a.GetModel())
	}
	f.add("alternates", strings.Join(alternates, ", "))
	f.add("input", tokens("at most", d.GetMaxInputTokens()))
	f.add("output", tokens("at most", d.GetMaxOutputTokens()))
	f.add("context", tokens("trim to", d.GetTrimContextToTokens()))
	if c := d.GetPromptCache(); c != pb.PromptCache_PROMPT_CACHE_UNSPECIFIED {
		f.add("prompt cache", short(c, "PROMPT_CACHE_"))
	}
	for _, r := range d.GetReasons() {
		text := r.GetMessage()
		if b := r.GetBudget(); b != "" && !names(text, b) {
			text += " (" + b + ")"
		}
		label := "why" // of a kept decision the codes are not told
		if r.GetCode() != pb.ReasonCode_REASON_CODE_UNSPECIFIED {
			label = short(r.GetCode(), "REASON_CODE_")
		}
		f.add(label, text)
	}
	if d.GetRetryDelay() != nil {
		f.add("try again in", wait(d.GetRetryDelay().AsDuration()))
	}
	f.add("decided by", d.GetPolicyRevision())
	return f
}

// names says whether the whole name of a resource stands in a text.
func names(text, name string) bool {
	for {
		i := strings.Index(text, name)
		if i < 0 {
			return false
		}
		text = text[i+len(name):]
		next, _ := utf8.DecodeRuneInString(text)
		if text == "" || !unicode.IsLetter(next) && !unicode.IsDigit(next) && !strings.ContainsRune("-_/", next) {
			return true
		}
	}
}

func tokens(what string, n int64) string {
	if n == 0 {
		return ""
	}
	return what + " " + thousands(n) + " tokens"
}

func holdFacts(h *pb.Hold, currency string) facts {
	if h == nil {
		return nil
	}
	var f facts
	f.add("held", strings.TrimSpace(exact(h.GetAmountNanos(), currency))+" until "+timeText(h.GetExpireTime()))
	f.add("hold", h.GetToken())
	return f
}

// writeSettlement tells a settlement and its lines, and why the forced part was forced.
func writeSettlement(w io.Writer, s *pb.Settlement, forced string) {
	var f facts
	f.add("feature", s.GetFeature())
	model := s.GetModel()
	if s.GetTier() != "" {
		model += " (" + s.GetTier() + ")"
	}
	f.add("model", model)
	f.add("cost", exact(s.GetCostNanos(), s.GetCurrency()))
	if s.GetForcedNanos() > 0 {
		f.add("forced", exact(s.GetForcedNanos(), s.GetCurrency())+" "+forced)
	}
	f.add("released", exact(s.GetReleasedNanos(), s.GetCurrency()))
	if s.GetLate() {
		f.add("late", "the hold had expired: all of it is forced spend")
	}
	f.add("journal", s.GetJournal())
	f.write(w)
	g := newGrid("UNIT", ">QUANTITY", ">COST")
	for _, l := range s.GetLines() {
		g.add(l.GetUnit(), thousands(l.GetQuantity()), exact(l.GetCostNanos(), s.GetCurrency()))
	}
	if len(g.rows) > 1 {
		fmt.Fprintln(w)
		g.write(w, "")
	}
}
