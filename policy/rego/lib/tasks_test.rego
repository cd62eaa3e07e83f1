# core/complexity has the same table; TestTaskTable compares the two.
package chartergate.lib.tasks_test

import data.chartergate.lib.tasks

complexity(class, tokens) := n if {
	n := tasks.complexity with input as {"request": {"task_class": class, "input_tokens": tokens}}
}

test_a_class_by_its_names if {
	complexity("classify", 10) == 10
	complexity("Sentiment Analysis", 10) == 10
}

test_a_class_of_several_words_is_as_hard_as_the_hardest if {
	complexity("label-code", 10) == complexity("code", 10)
}

test_an_unknown_class_has_no_complexity if not complexity("haiku", 10)

test_an_easy_last_word_decides if {
	complexity("legal-summarization", 10) == complexity("summarize", 10)
	complexity("summarize-code", 10) == complexity("code", 10)
}

test_length_adds if {
	complexity("classify", 8000) == 10
	complexity("classify", 8001) == 15
	complexity("classify", 32001) == 20
	complexity("code", 8001) == complexity("code", 10) + 5
}
