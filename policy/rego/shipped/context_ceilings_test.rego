package chartergate.shipped.context_ceilings_test

import data.chartergate.shipped.context_ceilings

decide(tokens, config) := decision if {
	decision := context_ceilings.decision with input as {"request": {"input_tokens": tokens}}
		with data.config.context as object.union({"max_input_tokens": 0, "max_output_tokens": 0, "trim_to_tokens": 0}, config)
}

test_no_ceilings if decide(1000000, {}) == {"effect": "allow"}

test_caps if decide(1, {"max_input_tokens": 8000, "max_output_tokens": 700}) == {"effect": "allow", "max_input_tokens": 8000, "max_output_tokens": 700}

test_trim if {
	decide(4000, {"trim_to_tokens": 4000}) == {"effect": "allow"}
	decide(4001, {"trim_to_tokens": 4000}) == {
		"effect": "allow",
		"trim_context_to_tokens": 4000,
		"reasons": ["The context is to be trimmed to 4000 tokens."],
	}
}
