# How long prompts and answers may be. Of `config.context`, in tokens, 0 for no ceiling: `max_input_tokens`,
# `max_output_tokens`, and `trim_to_tokens`, to which longer contexts are to be trimmed.
package chartergate.shipped.context_ceilings

decision := object.union_n([{"effect": "allow"}, input_cap, output_cap, trim])

default input_cap := {}

input_cap := {"max_input_tokens": data.config.context.max_input_tokens} if data.config.context.max_input_tokens > 0

default output_cap := {}

output_cap := {"max_output_tokens": data.config.context.max_output_tokens} if data.config.context.max_output_tokens > 0

default trim := {}

trim := {
	"trim_context_to_tokens": data.config.context.trim_to_tokens,
	"reasons": [sprintf("The context is to be trimmed to %d tokens.", [data.config.context.trim_to_tokens])],
} if {
	data.config.context.trim_to_tokens > 0
	input.request.input_tokens > data.config.context.trim_to_tokens
}
