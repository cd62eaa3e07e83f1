package complexity

import "strings"

// Base complexities of task classes, by name and synonym. policy/rego/tasks.rego has the same table for calls of which
// nothing but the class is known; a test compares them.
//
// What small models do nearly as well as large ones is up to 30, what models of the middle do up to 70, and what only
// the largest do is above: policy/testdata/cases/README.md has published figures.
var classes = map[string]int32{}

func init() {
	for _, c := range []struct {
		base  int32
		names string
	}{
		{8, "route routing intent intent_detection language_detection"},
		{10, "classify classification sentiment moderate moderation tag tagging label labeling labelling spam triage toxicity safety rerank rank ranking embed embedding sst2 imdb agnews"},
		{16, "extract extraction ner entities parse parsing json structured format formatting ocr autocomplete keywords redact redaction"},
		{22, "summarize summarise summary summarization summarisation tldr title headline"},
		{24, "translate translation localize localization rewrite rewriting paraphrase edit editing proofread grammar correction correct"},
		{40, "chat conversation conversational dialog dialogue assistant support faq email greeting smalltalk mtbench roleplay tool tools function_calling"},
		{45, "write writing creative generate generation general other instruct instruction instruction_following explain explanation brainstorm copywriting story ifeval vision image audio multimodal"},
		{46, "rag retrieval search reading comprehension squad drop boolq hotpotqa grounded grounded_qa document_qa doc_qa context_qa multi_hop"},
		{54, "qa question questions answer question_answering open_qa factual trivia knowledge commonsense triviaqa truthfulqa multiple_choice mcq exam hellaswag winogrande arc mmlu sql text_to_sql simpleqa"},
		{60, "math maths mathematics arithmetic word_problem gsm8k mgsm calculate"},
		{60, "code coding programming code_generation completion code_completion humaneval mbpp analyze analysis analyse analytics data legal medical finance"},
		{66, "debug debugging bugfix refactor refactoring code_review review mmlu_pro bbh"},
		{70, "science gpqa competition competition_math math500 aime"},
		{72, "reason reasoning logic logical"},
		{76, "plan planning design architecture architect research deep_research strategy optimize optimise optimization long_context"},
		{80, "agent agentic agents autonomous workflow multi_step tool_agent browse browsing browser computer_use tau_bench swe swe_bench repository software_engineering"},
		{84, "proof prove theorem olympiad expert hle frontiermath"},
	} {
		for name := range strings.FieldsSeq(c.names) {
			classes[name] = c.base
		}
	}
}

// broad classes say little of what is asked: the prompt's own words count as much.
var broad = map[string]bool{}

func init() {
	for name := range strings.FieldsSeq("chat conversation conversational dialog dialogue assistant mtbench general other instruct instruction generate generation qa question questions answer question_answering tool tools") {
		broad[name] = true
	}
}

// Classes gives the base complexity, 1 to 100, of every class that is known, by name.
func Classes() map[string]int32 {
	all := make(map[string]int32, len(classes))
	for name, base := range classes {
		all[name] = base
	}
	return all
}

// maxClass bounds the bytes of a class that are looked at.
const maxClass = 64

// Class gives the base complexity of a task class: of its name, in any case and with spaces or dashes for underscores, or
// else the highest that one of the name's words has, such as 60 for `code-snippets`. False: it is not known.
func Class(class string) (base int32, known bool) {
	name := normal(class)
	if base, known = classes[name]; known {
		return base, true
	}
	for word := range strings.SplitSeq(name, "_") {
		if b, ok := classes[word]; ok {
			base, known = max(base, b), true
		}
	}
	return base, known
}

func normal(class string) string {
	class = class[:min(len(class), maxClass)]
	return strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == ' ' || r == '/' || r == '.':
			return '_'
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return r
	}, class)
}
