package codec

import (
	"unicode/utf8"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// validText says that every string of a message is UTF-8, which proto3 demands and the generated code does not check.
// False also for messages that are not known here. A test holds it to the protos.
func validText(m hot) bool {
	switch m := m.(type) {
	case *chartergatev1.CheckRequest:
		return callText(m.GetCall())
	case *chartergatev1.ReserveRequest:
		return callText(m.GetCall()) && valid(m.GetRequestId())
	case *chartergatev1.SettleRequest:
		return valid(m.GetHold()) && valid(m.GetModel()) && valid(m.GetRequestId()) && valid(m.GetUsage().GetAccelerator()) &&
			keysText(m.GetUsage().GetToolCalls()) && rawText(m.GetRawUsage())
	case *chartergatev1.ReleaseRequest:
		return valid(m.GetHold()) && valid(m.GetRequestId())
	case *chartergatev1.ExtendRequest:
		return valid(m.GetHold()) && valid(m.GetRequestId())
	case *chartergatev1.CheckResponse:
		return decisionText(m.GetDecision())
	case *chartergatev1.ReserveResponse:
		return decisionText(m.GetDecision()) && valid(m.GetHold().GetToken())
	case *chartergatev1.SettleResponse:
		return settlementText(m.GetSettlement())
	case *chartergatev1.ReleaseResponse:
		return true
	case *chartergatev1.ExtendResponse:
		return valid(m.GetHold().GetToken())
	case *chartergatev1.SessionRequest:
		for _, op := range m.GetOperations() {
			if !validText(op) {
				return false
			}
		}
		return true
	case *chartergatev1.SessionOperation:
		switch o := m.GetOperation().(type) {
		case *chartergatev1.SessionOperation_Check:
			return validText(o.Check)
		case *chartergatev1.SessionOperation_Reserve:
			return validText(o.Reserve)
		case *chartergatev1.SessionOperation_Settle:
			return validText(o.Settle)
		case *chartergatev1.SessionOperation_Release:
			return validText(o.Release)
		case *chartergatev1.SessionOperation_Extend:
			return validText(o.Extend)
		}
		return m.GetOperation() == nil
	case *chartergatev1.SessionResponse:
		for _, r := range m.GetResults() {
			if !validText(r) {
				return false
			}
		}
		return true
	case *chartergatev1.SessionResult:
		switch r := m.GetResult().(type) {
		case *chartergatev1.SessionResult_Check:
			return validText(r.Check)
		case *chartergatev1.SessionResult_Reserve:
			return validText(r.Reserve)
		case *chartergatev1.SessionResult_Settle:
			return validText(r.Settle)
		case *chartergatev1.SessionResult_Release:
			return validText(r.Release)
		case *chartergatev1.SessionResult_Extend:
			return validText(r.Extend)
		case *chartergatev1.SessionResult_Error:
			return valid(r.Error.GetMessage()) && valid(r.Error.GetReason())
		}
		return m.GetResult() == nil
	}
	return false
}

func valid(s string) bool { return utf8.ValidString(s) }

func callText(c *chartergatev1.Call) bool {
	if c == nil {
		return true
	}
	for _, s := range c.RequiredCapabilities {
		if !valid(s) {
			return false
		}
	}
	for k, v := range c.Labels {
		if !valid(k) || !valid(v) {
			return false
		}
	}
	return valid(c.Feature) && valid(c.TaskClass) && valid(c.User) && valid(c.Cohort) && valid(c.Agent) && valid(c.Run) &&
		valid(c.PromptPattern) && valid(c.Task) && valid(c.Model) && valid(c.Tier) && valid(c.ServiceTier) && valid(c.Region) &&
		valid(c.GetEstimate().GetAccelerator()) && keysText(c.GetEstimate().GetToolCalls())
}

func rawText(r *chartergatev1.RawUsage) bool {
	return r == nil || valid(r.Provider) && valid(r.Api) && valid(r.Json)
}

func keysText(m map[string]int64) bool {
	for k := range m {
		if !valid(k) {
			return false
		}
	}
	return true
}

func decisionText(d *chartergatev1.Decision) bool {
	if d == nil {
		return true
	}
	for _, a := range d.Alternates {
		if !valid(a.GetTier()) || !valid(a.GetModel()) {
			return false
		}
	}
	for _, r := range d.Reasons {
		if !valid(r.GetMessage()) || !valid(r.GetBudget()) {
			return false
		}
	}
	return valid(d.Tier) && valid(d.Model) && valid(d.Provider) && valid(d.Currency) && valid(d.PolicyRevision)
}

func settlementText(s *chartergatev1.Settlement) bool {
	if s == nil {
		return true
	}
	for _, l := range s.Lines {
		if !valid(l.GetUnit()) {
			return false
		}
	}
	return valid(s.Feature) && valid(s.Tier) && valid(s.Model) && valid(s.Currency) && valid(s.Journal)
}
