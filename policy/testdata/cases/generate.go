//go:build ignore

// Generate writes the cases of a file of templates as JSON lines: go run generate.go train.txt > train.jsonl
//
// A line that begins with = is a benchmark: its name, task classes as a gateway may call it, the published accuracies of
// the three tiers in per cent, typical output and input tokens, and the weight of the benchmark. The lines after it are
// prompts: {a|b} is one of these, {2-9} a number. Half of the cases have no prompt; those of the task class - have no class.
//
// How hard a case is, is drawn evenly; a tier suffices where its published accuracy is above that. So the tiers of a case
// agree as in practice, and a benchmark's share of sufficient cases is the published one.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

const casesPerWeight = 20

var tiers = [3]string{"economy", "standard", "premium"}

var two = flag.Bool("two", false, "leave the middle tier out")

type benchmark struct {
	name          string
	classes       []string
	accuracy      [3]float64
	output, input float64
	weight        int
	prompts       []string
}

type line struct {
	ID           string           `json:"id"`
	TaskClass    string           `json:"task_class"`
	Prompt       string           `json:"prompt,omitempty"`
	InputTokens  int64            `json:"input_tokens"`
	OutputTokens map[string]int64 `json:"output_tokens"`
	Sufficient   map[string]bool  `json:"sufficient"`
}

func main() {
	if flag.Parse(); flag.NArg() != 1 {
		log.Fatal("usage: go run generate.go [-two] FILE")
	}
	r := rand.New(rand.NewPCG(20261124, 1))
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for _, b := range read(flag.Arg(0)) {
		for i := range casesPerWeight * b.weight {
			if err := out.Encode(b.make(r, i)); err != nil {
				log.Fatal(err)
			}
		}
	}
}

func read(file string) []*benchmark {
	f, err := os.Open(file)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	var list []*benchmark
	for s := bufio.NewScanner(f); s.Scan(); {
		text := strings.TrimSpace(s.Text())
		switch {
		case text == "" || strings.HasPrefix(text, "#"):
		case strings.HasPrefix(text, "="):
			part := strings.Split(text[1:], ";")
			b := &benchmark{name: strings.TrimSpace(part[0])}
			for class := range strings.SplitSeq(part[1], ",") {
				b.classes = append(b.classes, strings.TrimSpace(class))
			}
			if _, err := fmt.Sscan(part[2], &b.accuracy[0], &b.accuracy[1], &b.accuracy[2]); err != nil {
				log.Fatal(text, err)
			}
			if _, err := fmt.Sscan(part[3], &b.output, &b.input, &b.weight); err != nil {
				log.Fatal(text, err)
			}
			list = append(list, b)
		default:
			b := list[len(list)-1]
			b.prompts = append(b.prompts, strings.ReplaceAll(text, `\n`, "\n"))
		}
	}
	return list
}

func (b *benchmark) make(r *rand.Rand, i int) *line {
	l := &line{ID: fmt.Sprintf("%s-%d", strings.ReplaceAll(b.name, " ", "-"), i), TaskClass: b.classes[i%len(b.classes)],
		OutputTokens: map[string]int64{}, Sufficient: map[string]bool{}}
	hardness, size := 100*r.Float64(), math.Exp(0.4*r.NormFloat64())
	prompt := fill(r, b.prompts[r.IntN(len(b.prompts))])
	l.InputTokens = int64(b.input * math.Exp(0.4*r.NormFloat64()))
	if l.TaskClass == "-" { // then the prompt is all there is
		l.TaskClass = ""
	}
	if i%2 == 0 || l.TaskClass == "" {
		l.Prompt = prompt
		l.InputTokens = max(l.InputTokens, int64(len(prompt)/4+8))
	}
	for t, tier := range tiers {
		if *two && t == 1 {
			continue
		}
		l.Sufficient[tier] = hardness < b.accuracy[t]
		l.OutputTokens[tier] = int64(b.output * size * (1 + 0.1*float64(t)))
	}
	return l
}

// fill replaces {…} from the inside.
func fill(r *rand.Rand, text string) string {
	for {
		end := strings.IndexByte(text, '}')
		if end < 0 {
			return text
		}
		begin := strings.LastIndexByte(text[:end], '{')
		choice := text[begin+1 : end]
		if low, high, ok := strings.Cut(choice, "-"); ok && !strings.Contains(choice, "|") {
			a, err1 := strconv.Atoi(low)
			z, err2 := strconv.Atoi(high)
			if err1 == nil && err2 == nil {
				choice = strconv.Itoa(a + r.IntN(z-a+1))
			}
		}
		options := strings.Split(choice, "|")
		text = text[:begin] + options[r.IntN(len(options))] + text[end+1:]
	}
}
