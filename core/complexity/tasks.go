package complexity

import "strings"

// Base complexities of task classes, by name and synonym. policy/rego/lib/tasks.rego has the same table for calls of which
// nothing but the class is known; a test compares them.
//
// What small models do nearly as well as large ones is up to 30, what models of the middle do up to 70, and what only
// the largest do is above: policy/testdata/cases/README.md has published figures. Between 50 and 70 the order is by what a
// dear model adds for its price, so that agents, whose calls are long, are below knowledge.
var classes = map[string]int32{}

func init() {
	for _, c := range []struct {
		base  int32
		names string
	}{
		{8, "route routing intent intent_classification language_identification intent_detection language_detection"},
		{10, "classify classification classifier categorize categorization sentiment sentiment_analysis topic_analysis"},
		{10, "moderate moderation tag tagging label labeling labelling spam triage toxicity safety rerank rank ranking embed"},
		{10, "embedding sst2 imdb agnews"},
		{16, "extract extraction ner named_entity_recognition entity entity_recognition data_extraction data_entry"},
		{16, "data_cleaning data_transformation form_filling entities parse parsing json structured format formatting ocr"},
		{16, "autocomplete keywords keyword redact redaction"},
		{22, "summarize summarise summary spelling spell_check summarization summarisation summaries tldr title headline"},
		{24, "translate translation translations paraphrasing simplification simplify transcription localize localization"},
		{24, "localise localisation rewrite rewriting rephrase paraphrase edit editing proofread proofreading grammar"},
		{24, "correction correct wmt"},
		{34, "rag retrieval rag_qa qa_rag retrieval_qa reading comprehension squad drop boolq grounded grounded_qa document_qa"},
		{34, "doc_qa context_qa"},
		{40, "chat conversation mt_bench customer_service email_drafting conversational dialog dialogue assistant support faq"},
		{40, "email greeting smalltalk mtbench roleplay tool tools function_calling search hotpotqa multi_hop"},
		{40, "document_analysis"},
		{45, "write writing draft drafting description descriptions copy marketing content creative generate generation"},
		{45, "general other instruct instruction instruction_following explain explanation brainstorm copywriting story ifeval"},
		{45, "vision image audio multimodal"},
		{56, "word_problem word_problems gsm8k mgsm arithmetic arithmetic_reasoning calculate homework function script snippet"},
		{56, "regex completion code_completion humaneval human_eval mbpp"},
		{58, "code coding programming software code_generation python javascript typescript java golang rust sql text_to_sql"},
		{58, "text2sql data_analysis analyze analysis analyse analytics agent agentic agents workflow tool_agent browse"},
		{58, "browsing browser tau_bench"},
		{60, "qa question commonsense_reasoning common_sense reasoning_commonsense questions answer question_answering open_qa"},
		{60, "trivia knowledge commonsense triviaqa truthfulqa multiple_choice mcq exam hellaswag winogrande arc mmlu math"},
		{60, "maths math_reasoning mathematical_reasoning mathematics algebra geometry legal medical finance swe swe_bench"},
		{60, "repository software_engineering"},
		{62, "debug debugging bugfix bug refactor refactoring code_review review big_bench_hard bbh mmlu_pro long_context"},
		{62, "reason reasoning logic logical science physics chemistry biology gpqa"},
		{66, "competition_math math500"},
		{72, "plan planning design architecture architect strategy research deep_research optimize optimise optimization"},
		{74, "factual facts simpleqa hard advanced complex difficult graduate competition competitive competitive_programming"},
		{74, "autonomous long_horizon multi_step computer_use aime"},
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

// easyClass is the highest complexity of the tasks that stay easy whatever they are about.
const easyClass = 24

// Class gives the base complexity of a task class: of its name, in any case and with spaces or dashes for underscores, or
// else of its last word where that is an easy task (up to 24), such as 10 for `medical-classification`, or else the highest
// that one of its words has, such as 58 for `chat-code`. False: it is not known.
func Class(class string) (base int32, known bool) {
	name := normal(class)
	if base, known = classes[name]; known {
		return base, true
	}
	if base, known = classes[name[strings.LastIndexByte(name, '_')+1:]]; known && base <= easyClass {
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
