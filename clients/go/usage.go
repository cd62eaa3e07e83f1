package chartergate

import chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"

// RawUsage is what a provider says that a call used, for the raw_usage of Settle and RecordUsage: body is its usage object,
// its response, or the events of its stream as they came, at most 64 KiB. api is such as `chat`, `responses`, `anthropic`,
// `gemini` or `converse`; empty lets the fields tell. A response that is larger must be cut down to its usage object.
func RawUsage(provider, api string, body []byte) *chartergatev1.RawUsage {
	return &chartergatev1.RawUsage{Provider: provider, Api: api, Json: string(body)}
}
