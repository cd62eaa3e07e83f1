package chartergate.shipped.prompt_cache_test

import data.chartergate.shipped.prompt_cache

call := {"task_class": "chat", "prompt_pattern": "answer-v3", "input_tokens": 1023, "cached_input_tokens": 0}

decide(request, config) := decision if {
	decision := prompt_cache.decision with input as {"request": object.union(call, request)}
		with data.config.prompt_cache as object.union({"min_input_tokens": 1024, "hour_patterns": [], "off_classes": []}, config)
}

test_short if decide({}, {}) == {"effect": "allow"}

test_long if decide({"input_tokens": 1024}, {}) == {"effect": "allow", "prompt_cache": "5m"}

test_cached_before if decide({"cached_input_tokens": 1}, {}).prompt_cache == "5m"

test_hour if decide({}, {"hour_patterns": ["answer-v3"]}).prompt_cache == "1h"

test_off if decide({"input_tokens": 9000}, {"off_classes": ["chat"], "hour_patterns": ["answer-v3"]}).prompt_cache == "off"
