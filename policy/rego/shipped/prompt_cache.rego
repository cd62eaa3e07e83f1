# Which prompts are worth caching. A prompt that was cached before, or is long enough to be cached by every large provider,
# for 5 minutes. Of `config.prompt_cache`: `min_input_tokens` is what long enough is; prompts of `hour_patterns` are
# cached for an hour; calls of `off_classes` are not to be cached.
package chartergate.shipped.prompt_cache

decision := {"effect": "allow", "prompt_cache": "off"} if {
	data.config.prompt_cache.off_classes != []
	input.request.task_class in data.config.prompt_cache.off_classes
} else := {"effect": "allow", "prompt_cache": "1h"} if {
	data.config.prompt_cache.hour_patterns != []
	input.request.prompt_pattern in data.config.prompt_cache.hour_patterns
} else := {"effect": "allow", "prompt_cache": "5m"} if {
	input.request.cached_input_tokens > 0
} else := {"effect": "allow", "prompt_cache": "5m"} if {
	input.request.input_tokens >= data.config.prompt_cache.min_input_tokens
} else := {"effect": "allow"}
