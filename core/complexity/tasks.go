package complexity

import "strings"

// Base complexities of task classes, by name and synonym. policy/rego/lib/tasks.rego has the same table for calls of which
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
		{8, "route routing intent intent_classification language_identification intent_detection language_detection"},
		{10, "classify classification sentiment sentiment_analysis topic_analysis moderate moderation tag tagging"},
		{10, "label labeling labelling spam triage toxicity safety rerank rank ranking embed embedding sst2 imdb"},
		{10, "agnews"},
		{16, "extract extraction ner named_entity_recognition entity entity_recognition data_extraction data_entry"},
		{16, "data_cleaning data_transformation form_filling entities parse parsing json structured format formatting"},
		{16, "ocr autocomplete keywords redact redaction"},
		{22, "summarize summarise summary spelling spell_check summarization summarisation tldr title headline"},
		{24, "translate translation paraphrasing simplification simplify transcription localize localization rewrite"},
		{24, "rewriting paraphrase edit editing proofread grammar correction correct"},
		{40, "chat conversation mt_bench customer_service email_drafting conversational dialog dialogue assistant"},
		{40, "support faq email greeting smalltalk mtbench roleplay tool tools function_calling"},
		{45, "write writing draft drafting description descriptions copy marketing content creative generate"},
		{45, "generation general other instruct instruction instruction_following explain explanation brainstorm"},
		{45, "copywriting story ifeval vision image audio multimodal"},
		{46, "rag retrieval rag_qa qa_rag retrieval_qa document_analysis search reading comprehension squad drop boolq"},
		{46, "hotpotqa grounded grounded_qa document_qa doc_qa context_qa multi_hop"},
		{54, "qa question commonsense_reasoning common_sense reasoning_commonsense questions answer question_answering"},
		{54, "open_qa factual trivia knowledge commonsense triviaqa truthfulqa multiple_choice mcq exam hellaswag"},
		{54, "winogrande arc mmlu sql text_to_sql simpleqa"},
		{60, "math maths arithmetic_reasoning math_reasoning mathematical_reasoning mathematics arithmetic"},
		{60, "word_problem gsm8k mgsm calculate"},
		{60, "code coding human_eval function script data_analysis software programming code_generation completion"},
		{60, "code_completion humaneval mbpp analyze analysis analyse analytics legal medical finance"},
		{66, "debug debugging big_bench_hard bugfix refactor refactoring code_review review mmlu_pro bbh"},
		{70, "science gpqa competition competition_math math500 aime"},
		{72, "reason reasoning logic logical"},
		{76, "plan planning hard advanced complex difficult graduate competitive design architecture architect"},
		{76, "research deep_research strategy optimize optimise optimization long_context"},
		{80, "agent agentic agents autonomous workflow multi_step tool_agent browse browsing browser computer_use"},
		{80, "tau_bench swe swe_bench repository software_engineering"},
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
	for name := range strings.FieldsSeq("chat conversation conversational dialog dialogue assistant mtbench general other instruct " +
		"instruction generate generation qa question questions answer question_answering tool tools") {
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
