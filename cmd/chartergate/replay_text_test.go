package main

import (
	"io/fs"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/examples"
	"github.com/chartergate/chartergate/replay"
)

func TestAmountsForPeople(t *testing.T) {
	for nanos, want := range map[int64]string{
		0: "0.0000", 1: "0.000000001", 50_000: "0.00005", 20_000: "0.00002", -49_999: "-0.000049999", 100_000: "0.0001", 149_999: "0.0001", 1_234_567_890_123: "1,234.5679", -2_500_000_000: "-2.5000",
		999_999_950_000: "1,000.0000", math.MaxInt64: "9,223,372,036.8548",
	} {
		if got := amount(nanos); got != want {
			t.Errorf("amount(%d) = %q, want %q", nanos, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 12: "12"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
	for _, c := range []struct {
		part, whole int64
		want        string
	}{{1, 3, "33.3%"}, {999_999, 1_000_000, "99.9%"}, {5, 0, "-"}, {3, 2, "150.0%"}} {
		if got := percent(c.part, c.whole); got != c.want {
			t.Errorf("percent(%d, %d) = %q, want %q", c.part, c.whole, got, c.want)
		}
	}
	for d, want := range map[time.Duration]string{0: "-", 1500 * time.Millisecond: "1.5s", 90 * time.Second: "2m", 7*time.Hour + 30*time.Minute: "7h30m"} {
		if got := wait(d); got != want {
			t.Errorf("wait(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestGridAligns(t *testing.T) {
	g := newGrid("NAME", ">COUNT")
	g.add("é", "1")
	g.add("longer", "1,000")
	var b strings.Builder
	g.write(&b, "  ")
	if want := "  NAME    COUNT\n  é           1\n  longer  1,000\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	newGrid("NAME").write(&b, "")
	if b.Len() > 0 {
		t.Errorf("a table without rows is %q", b.String())
	}
}

func TestParseSpeed(t *testing.T) {
	for s, want := range map[string]float64{"max": 0, "real": 1, "60": 60, "0.5": .5} {
		if got, err := parseSpeed(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "-1", "NaN", "Inf", "fast"} {
		if got, err := parseSpeed(s); err == nil {
			t.Errorf("%q was taken as %v", s, got)
		}
	}
}

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics(strings.NewReader("# HELP a b\n# TYPE a counter\na 12\nb{x=\"1\"} 3\nc 1.5e+06\n"))
	if err != nil || len(got) != 2 || got["a"] != 12 || got["c"] != 1.5e6 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseMetrics(strings.NewReader("a b\n")); err == nil {
		t.Error("a metric that is no number was taken")
	}
}

func TestTheBinaryCarriesTheExamples(t *testing.T) {
	resources, err := exampleResources()
	if err != nil {
		t.Fatal(err)
	}
	var charters []string
	for _, r := range resources {
		if c := r.GetCharter(); c != nil {
			charters = append(charters, strings.TrimPrefix(c.GetName(), "charters/"))
		}
	}
	for _, f := range demoFeatures {
		if !slices.Contains(charters, f.name) {
			t.Errorf("the examples have no charter of %s", f.name)
		}
		if _, err := replay.Generate(f.workload, 1); err != nil {
			t.Error(err)
		}
	}
	if files, err := fs.Glob(examples.FS, "acme/*.yaml"); err != nil || len(files) == 0 {
		t.Errorf("%v, %v", files, err)
	}
}

func TestTheDemoIsPlainWithoutATerminal(t *testing.T) {
	var b strings.Builder
	s := newStory(&b)
	s.title("a")
	s.chapter("b")
	s.once("c", red, "what", "text %d", 1)
	s.once("c", red, "what", "text %d", 2)
	s.agreed(1, 2)
	if strings.ContainsRune(b.String(), '\x1b') || strings.Count(b.String(), "text") != 1 {
		t.Errorf("%q", b.String())
	}
}
