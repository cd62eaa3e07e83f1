package replay

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/internal/dataset"
)

func TestReadersReadRows(t *testing.T) {
	full := Row{
		At: 1500 * time.Millisecond, InputTokens: 100, CachedTokens: 60, OutputTokens: 7, TaskClass: "chat", Complexity: 5, Cohort: "pro",
		User: "u1", Agent: "a", Run: "r", PromptPattern: "p", Model: "m", Tier: "economy", RetrievalHops: 2,
		ToolCalls: map[string]int64{"search": 2, "calc": 1}, Outcome: OutcomeFailure,
	}
	for _, c := range []struct {
		name   string
		format Format
		text   string
		want   []Row
	}{
		{"azure, no newline at the end", AzureLLM, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109",
			[]Row{{InputTokens: 374, OutputTokens: 44}, {At: 4314579 * time.Microsecond, InputTokens: 396, OutputTokens: 109}}},
		{"azure, carriage returns and a zone", AzureLLM, "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2024-05-10 00:00:00.5+00:00,1,2\r\n2024-05-10 00:00:01.5+00:00,3,4\r\n",
			[]Row{{InputTokens: 1, OutputTokens: 2}, {At: time.Second, InputTokens: 3, OutputTokens: 4}}},
		{"mooncake", Mooncake, `{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}` + "\n\n" + `{"timestamp": 4000, "input_length": 1000, "output_length": 6, "hash_ids": [0, 2]}`,
			[]Row{
				{InputTokens: 600, OutputTokens: 5, Prefix: []uint64{0, 1}, PrefixBlock: 512},
				{At: time.Second, InputTokens: 1000, CachedTokens: 512, OutputTokens: 6, Prefix: []uint64{0, 2}, PrefixBlock: 512},
			}},
		{"csv, columns in any order, empty values", CSV, "\ufeffoutput_tokens,input_tokens,timestamp_ms,outcome,cohort\n4,3,500,success,\n5,6,700,,free\n",
			[]Row{{InputTokens: 3, OutputTokens: 4, Outcome: OutcomeSuccess}, {At: 200 * time.Millisecond, InputTokens: 6, OutputTokens: 5, Cohort: "free"}}},
		{"csv, all columns", CSV, "timestamp,input_tokens,cached_tokens,output_tokens,task_class,complexity,cohort,user,agent,run,prompt_pattern,model,tier,retrieval_hops,tool_calls,outcome\n" +
			"2026-01-01T00:00:00Z,1,0,1,,,,,,,,,,,,\n2026-01-01T00:00:01.5Z,100,60,7,chat,5,pro,u1,a,r,p,m,economy,2,search=2;calc=1,failure\n",
			[]Row{{InputTokens: 1, OutputTokens: 1}, full}},
		{"jsonl, all keys", JSONL, `{"timestamp":"2026-01-01T00:00:00Z","input_tokens":1,"output_tokens":1,"cohort":null}` + "\n" +
			`{"timestamp":"2026-01-01T00:00:01.5Z","input_tokens":100,"cached_tokens":60,"output_tokens":7,"task_class":"chat","complexity":5,"cohort":"pro","user":"u1","agent":"a","run":"r","prompt_pattern":"p","model":"m","tier":"economy","retrieval_hops":2,"tool_calls":{"search":2,"calc":1},"outcome":"failure"}`,
			[]Row{{InputTokens: 1, OutputTokens: 1}, full}},
		{"a row that is earlier than the first", CSV, "timestamp_ms,input_tokens,output_tokens\n500,1,1\n200,1,1\n", []Row{{InputTokens: 1, OutputTokens: 1}, {InputTokens: 1, OutputTokens: 1}}},
	} {
		rows, err := Read(c.format, "f", strings.NewReader(c.text))
		if err != nil {
			t.Fatal(err)
		}
		var got []Row
		for row, err := range rows {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			got = append(got, row)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestReadersNameTheLine(t *testing.T) {
	const azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
	for _, c := range []struct {
		format Format
		text   string
		line   int
		says   string
	}{
		{AzureLLM, "", 1, "empty"},
		{AzureLLM, "time,in,out\n", 1, "the header is"},
		{AzureLLM, azure + "2023-11-16 18:15:46,1,2\n2023-11-16 18:15:46,1\n", 3, "wrong number of fields"},
		{AzureLLM, azure + "yesterday,1,2\n", 2, `time: "yesterday"`},
		{AzureLLM, azure + "2023-11-16 18:15:46,1,-2\n", 2, `GeneratedTokens: "-2"`},
		{AzureLLM, azure + "2023-11-16 18:15:46,1,1.5\n", 2, `GeneratedTokens: "1.5"`},
		{AzureLLM, azure + "2023-11-16 18:15:46,99999999999,1\n", 2, "not 0 to 1000000000"},
		{CSV, "input_tokens,output_tokens,colour\n", 1, `unknown column "colour"`},
		{CSV, "input_tokens,cohort\n", 1, "required"},
		{CSV, "input_tokens,output_tokens,input_tokens\n", 1, "twice"},
		{CSV, "input_tokens,output_tokens,timestamp,timestamp_ms\n", 1, "not both"},
		{CSV, "input_tokens,output_tokens\n1,\n", 2, "output_tokens is empty"},
		{CSV, "input_tokens,output_tokens,cohort\n1,1,\"a\nb\"\n1,1,\"a\"b\n", 4, "\""},
		{CSV, "input_tokens,output_tokens,cached_tokens\n5,1,6\n", 2, "more than the 5 input tokens"},
		{CSV, "input_tokens,output_tokens,outcome\n5,1,maybe\n", 2, "neither success nor failure"},
		{CSV, "input_tokens,output_tokens,tool_calls\n5,1,search\n", 2, "tool_calls"},
		{CSV, "input_tokens,output_tokens,complexity\n5,1,101\n", 2, "complexity"},
		{JSONL, "{\"input_tokens\":1,\"output_tokens\":1}\n{\"input_tokens\":1,\n", 2, "not a JSON object"},
		{JSONL, "[1]\n", 1, "not a JSON object"},
		{JSONL, `{"input_tokens":1,"output_tokens":1}{}`, 1, "one object on each line"},
		{JSONL, `{"input_tokens":1,"output_tokens":1,"price":2}`, 1, `unknown column "price"`},
		{JSONL, `{"input_tokens":true,"output_tokens":1}`, 1, "input_tokens"},
		{JSONL, `{"input_tokens":null,"output_tokens":1}`, 1, "input_tokens"},
		{Mooncake, `{"timestamp": 0, "input_length": 5, "hash_ids": []}`, 1, "required"},
		{Mooncake, `{"timestamp": 0, "input_length": -5, "output_length": 1}`, 1, "-5 is not"},
		{Mooncake, `{"timestamp": 0, "input_length": 5, "output_length": 1, "session": 4}`, 1, "session"},
	} {
		rows, err := Read(c.format, "trace.x", strings.NewReader(c.text))
		if err != nil {
			t.Fatal(err)
		}
		var last error
		for _, err := range rows {
			last = err
		}
		var at *LineError
		if !errors.As(last, &at) {
			t.Errorf("%s %q: error %v is no LineError", c.format, c.text, last)
			continue
		}
		if at.File != "trace.x" || at.Line != c.line || !strings.Contains(at.Problem, c.says) {
			t.Errorf("%s %q: %q; want line %d and %q", c.format, c.text, last, c.line, c.says)
		}
	}
	if _, err := Read("xml", "f", strings.NewReader("")); err == nil {
		t.Error("an unknown format was read")
	}
}

func TestPrefixCache(t *testing.T) {
	c := prefixCache{ttl: CacheTTL, used: map[uint64]time.Duration{}}
	for i, step := range []struct {
		at     time.Duration
		blocks []uint64
		want   int64
		why    string
	}{
		{0, []uint64{1, 2, 3}, 0, "nothing was seen before"},
		{time.Minute, []uint64{1, 2, 9}, 2, "a leading run of two"},
		{2 * time.Minute, []uint64{8, 2, 3}, 0, "the first block is new: what follows is no prefix"},
		{6 * time.Minute, []uint64{1, 2, 3}, 3, "used five minutes ago at the most"},
		{11*time.Minute + 1, []uint64{1, 2, 3}, 0, "used more than five minutes ago"},
		{12 * time.Minute, []uint64{1}, 1, "put back by the miss"},
		{12 * time.Minute, nil, 0, "no blocks"},
	} {
		if got := c.use(step.blocks, step.at); got != step.want {
			t.Errorf("step %d: %d cached, want %d: %s", i, got, step.want, step.why)
		}
	}
}

func TestPrefixCacheStaysSmall(t *testing.T) {
	c := prefixCache{ttl: CacheTTL, used: map[uint64]time.Duration{}}
	for i := range uint64(200_000) {
		c.use([]uint64{i}, time.Duration(i)*time.Second) // 301 live blocks
	}
	if len(c.used) > 4096 {
		t.Errorf("the cache kept %d blocks of which 301 live", len(c.used))
	}
}

func TestCachedShareIsAtMostThePrompt(t *testing.T) {
	line := `{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}` + "\n"
	rows, err := Read(Mooncake, "f", strings.NewReader(line+line))
	if err != nil {
		t.Fatal(err)
	}
	if got := take(t, rows, 0); got[1].CachedTokens != 600 {
		t.Errorf("%d cached tokens of a prompt of 600 that was seen before", got[1].CachedTokens)
	}
}

// The totals were computed from the same files with another program.
func TestRealTraces(t *testing.T) {
	for _, c := range []struct {
		file                  string
		format                Format
		rows                  int
		input, cached, output int64
	}{
		{"azure-llm-2023-conv.csv", AzureLLM, 19366, 22361870, 0, 4088665},
		{"mooncake-conversation.jsonl", Mooncake, 12031, 144793823, 42480677, 4122048},
	} {
		f, err := os.Open(dataset.File(t, "traces/"+c.file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		rows, err := Read(c.format, c.file, f)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		var input, cached, output int64
		for row, err := range rows {
			if err != nil {
				t.Fatal(err)
			}
			n++
			input, cached, output = input+row.InputTokens, cached+row.CachedTokens, output+row.OutputTokens
		}
		if n != c.rows || input != c.input || cached != c.cached || output != c.output {
			t.Errorf("%s: %d rows, %d input, %d cached, %d output; want %+v", c.file, n, input, cached, output, c)
		}
	}
}
