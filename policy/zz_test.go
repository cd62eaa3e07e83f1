package policy

import (
	"context"
	"testing"
)

func BenchmarkZZ(b *testing.B) {
	p := compile(b, module(rawTokens))
	list := traceInputs(b)
	e := using(p).inUse.Load()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := e.run(context.Background(), list[i%len(list)]); err != nil {
			b.Fatal(err)
		}
	}
}
