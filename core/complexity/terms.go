package complexity

import "strings"

type kind uint8

const (
	plain kind = iota
	cue
	constraint
	example
	first  // of a pair of words
	second // of a pair of words
)

// term is what a word means to the scanner.
type term struct {
	kind       kind
	cue        Cue
	code       bool // begins a line of code
	constrains bool // of a second word
	pair       uint8
}

// terms by word, in lower case.
var terms = map[string]term{}

func init() {
	for c, words := range [CueCount]string{
		Classify:  "classify categorize categorise label sentiment category categories positive negative neutral spam toxic",
		Extract:   "extract parse json fields field entities entity list identify find passage context excerpt",
		Translate: "translate translation translated",
		Summarize: "summarize summarise summary tldr shorten headline bullet condense",
		Rewrite:   "rewrite rephrase paraphrase reword proofread polish grammar correct formal polite",
		Explain:   "explain describe define clarify meaning overview",
		Write:     "write draft compose story poem essay email letter blog brainstorm suggest speech dialogue",
		Compute: "solve calculate compute evaluate simplify total cost sum many much remaining average percent dollars " +
			"minutes hours speed twice half",
		Implement: "implement function python javascript typescript java golang rust sql regex algorithm script program " +
			"class method array string returns endpoint html css query code unittest",
		Debug: "debug bug bugs error exception traceback stacktrace crash crashes fails failing fix segfault " +
			"deadlock race leak",
		Design: "design architect architecture plan roadmap strategy scalable distributed microservices schema " +
			"migrate migration system propose budget itinerary",
		Prove: "prove proof proves lemma theorem corollary induction contradiction disprove derive derivation rigorous",
		Optimize: "optimize optimise optimal optimization maximize maximise minimize minimise efficient complexity " +
			"throughput",
		Reason: "why pros compare contrast evaluate analyze analyse assess justify critique implications infer deduce " +
			"tradeoffs puzzle logic argue argument therefore counterfactual paradox consequences",
		Fact: "who whom when where whose",
		AdvancedMath: "integral integrals derivative derivatives polynomial polynomials modulo congruent prime primes " +
			"eigenvalue eigenvalues matrix  matrices logarithm logarithmic complex converge converges convergence " +
			"integer integers permutation permutations combinatorics  bijection isomorphic homomorphism topology " +
			"manifold vector probability expected variance inscribed circumcircle triangle quadrilateral  tangent " +
			"cosine sine parabola hyperbola sequence divisible divisors gcd lcm factorial roots frac sqrt cdot " +
			"binom triangles circle remainder coefficient coefficients expansion progression arithmetic geometric infinitely irrational",
		ExpertScience: "quantum hamiltonian entropy enthalpy thermodynamics enzyme enzymes mitochondrial genome allele " +
			"phenotype receptor agonist  antagonist inhibitor molecule molecular reagent stereochemistry isomer " +
			"isomers catalyst spectroscopy nmr electron photon boson relativistic neutrino  orbital ligand " +
			"plasmid mrna protein proteins tumor tumour diagnosis differential pathophysiology dosage " +
			"contraindicated syndrome etiology  statute jurisdiction plaintiff defendant tort liability precedent " +
			"appellate macroeconomic econometric elasticity heteroskedasticity  epistemology semantics galaxy " +
			"redshift stellar wavelength isotope oxidation nucleophilic",
		Tools: "tool tools repository repo browser terminal shell pytest commit branch pull ticket workflow agent " +
			"subtask subtasks autonomous api kubernetes deploy deployment",
	} {
		for word := range strings.FieldsSeq(words) {
			if _, taken := terms[word]; !taken {
				terms[word] = term{kind: cue, cue: Cue(c)}
			}
		}
	}
	for word := range strings.FieldsSeq("must should exactly only never always ensure required requires avoid include exclude without dont " +
		"cannot ensure limit maximum minimum constraint constraints format") {
		terms[word] = term{kind: constraint}
	}
	for word := range strings.FieldsSeq("input output example q a question answer user assistant examples") {
		if _, taken := terms[word]; !taken {
			terms[word] = term{kind: example}
		}
	}
	for i, p := range []struct {
		first, second string
		cue           Cue
		constrains    bool
	}{
		{"by", "step", Reason, false}, {"trade", "offs", Reason, false}, {"trade", "off", Reason, false},
		{"at", "least", 0, true}, {"at", "most", 0, true}, {"do", "not", 0, true}, {"no", "more", 0, true},
		{"stack", "trace", Debug, false}, {"key", "points", Summarize, false},
	} {
		pair := uint8(i + 1)
		if t, ok := terms[p.first]; ok && t.kind == first {
			pair = t.pair
		}
		terms[p.first] = term{kind: first, pair: pair}
		terms[p.second] = term{kind: second, pair: pair, cue: p.cue, constrains: p.constrains}
	}
	addForeign()
	for word := range strings.FieldsSeq("def class import from func function return public private protected static const let var package if " +
		"else elif for while try except switch case struct void int select create insert update with async " +
		"await include using namespace type interface") {
		t := terms[word]
		t.code = true
		terms[word] = t
	}
}
