package usage

import (
	"bytes"
)

// places are where usage stands in a response or an event, in order.
var places = [...][]string{
	{"usage"}, {"usageMetadata"}, {"usage_metadata"},
	{"message", "usage"},                      // Anthropic's message_start
	{"response", "usage"},                     // events of OpenAI's Responses and Realtime
	{"response", "usageMetadata"},             // lines of a Gemini batch
	{"response", "body", "usage"},             // lines of an OpenAI batch
	{"response", "body", "usageMetadata"},     //
	{"result", "message", "usage"},            // lines of an Anthropic batch
	{"result", "usage"},                       // Cloudflare
	{"metadata", "usage"}, {"delta", "usage"}, // Converse's and Cohere's last event
	{"x_groq", "usage"}, {"delta", "response", "usage"},
	{"modelOutput", "usage"}, {"tokenUsage"}, // Bedrock batch, Cursor
	{"meta"}, // Cohere v1
	{"amazon-bedrock-invocationMetrics"},
}

// locate finds the usage in a response. It is nil where there is none: then the response may be the usage itself.
func locate(body *node) (*node, string) {
	for _, place := range places {
		n := body.at(place...)
		if !n.is('{') || place[0] == "meta" && n.find("billed_units") == nil && n.find("tokens") == nil {
			continue
		}
		path := ""
		for _, key := range place {
			path = join(path, key)
		}
		return n, path
	}
	return nil, ""
}

// open finds the usage in a payload.
func (p *Payload) open(raw []byte) (body, usage *node, path string, err error) {
	if len(raw) == 0 {
		return nil, nil, "", invalid("", "is empty")
	}
	body, err = parse(raw)
	if err == nil {
		if usage, path = locate(body); usage == nil {
			return body, body, "", nil
		}
		p.Raw = usage.raw
		return body, usage, path, nil
	}
	events, done, whole := split(raw)
	if len(events) == 0 || raw[0] == '{' && len(events) < 2 && whole {
		return nil, nil, "", err
	}
	body = &node{raw: []byte("{}")}
	usage = &node{raw: []byte("{}")}
	var metrics *node
	for _, e := range events {
		done = done || ends(e)
		n, at := locate(e)
		if at == "amazon-bedrock-invocationMetrics" {
			metrics = n
			continue
		}
		if n != nil {
			usage.merge(n)
			path = at
		}
		body.merge(e)
	}
	switch {
	case path != "":
	case metrics != nil:
		usage, path = metrics, "amazon-bedrock-invocationMetrics"
	default: // each event has its counts beside the rest, as Ollama's last one
		usage = body
	}
	p.Partial = !done
	return body, usage, path, nil
}

// maxMerged is how many fields the events of a stream have together; more are left out.
const maxMerged = 1024

// merge takes the fields of a later event: counts of streams are totals, so the last one stands.
func (n *node) merge(later *node) {
next:
	for _, k := range later.kids {
		if k.is('n') {
			continue
		}
		for i := range n.kids {
			if n.kids[i].key == k.key {
				n.kids[i] = k
				continue next
			}
		}
		if len(n.kids) < maxMerged {
			n.kids = append(n.kids, k)
		}
	}
}

// split gives the events of a stream. done: it says itself that it is at its end. whole: its last line is not cut off.
func split(raw []byte) (events []*node, done, whole bool) {
	whole = true
	if raw[0] == '[' { // Gemini's stream without SSE; one that broke off lacks its end
		list := bytes.TrimRight(bytes.TrimSpace(raw[1:]), "]")
		return elements(list), false, true
	}
	for line := range bytes.Lines(raw) {
		line = bytes.TrimSpace(line)
		data, is := bytes.CutPrefix(line, []byte("data:"))
		if !is && (len(line) == 0 || line[0] != '{') {
			continue
		}
		data = bytes.TrimSpace(data)
		if string(data) == "[DONE]" {
			done = true
			continue
		}
		e, err := parse(data)
		if whole = err == nil; whole {
			events = append(events, e)
		}
	}
	return events, done, whole
}

// elements gives the objects of a list without its brackets, up to the one that is cut off.
func elements(list []byte) (events []*node) {
	for {
		list = bytes.TrimLeft(list, ", \t\r\n")
		end := objectEnd(list)
		if end < 0 {
			return events
		}
		e, err := parse(list[:end])
		if err != nil {
			return events
		}
		events, list = append(events, e), list[end:]
	}
}

// objectEnd is where the object ends that a text begins with, or -1.
func objectEnd(s []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		if depth == 0 {
			return -1
		}
	}
	return -1
}

// ends says that an event is one that a stream which is whole has at its end.
func ends(e *node) bool {
	switch e.find("type").text() {
	case "message_stop", "message-end", "response.completed", "response.incomplete", "response.failed", "response.done":
		return true
	}
	for _, list := range [...]string{"choices", "candidates"} {
		if n := e.find(list); n.is('[') {
			for i := range n.kids {
				if n.kids[i].find("finish_reason") != nil || n.kids[i].find("finishReason") != nil {
					return true
				}
			}
		}
	}
	for _, key := range [...]string{"messageStop", "metadata", "metrics", "stop_reason", "completionReason", "finish_reason", "amazon-bedrock-invocationMetrics"} {
		if e.find(key) != nil {
			return true
		}
	}
	return e.at("delta", "stop_reason") != nil || e.find("done").is('t') || e.find("is_finished").is('t')
}
