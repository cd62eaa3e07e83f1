package server

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// ended gives the names of spans as they end.
type ended chan string

func (e ended) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (e ended) OnEnd(s sdktrace.ReadOnlySpan)                   { e <- s.Name() }
func (e ended) Shutdown(context.Context) error                  { return nil }
func (e ended) ForceFlush(context.Context) error                { return nil }

func TestTracing(t *testing.T) {
	spans, before := make(ended, 16), otel.GetTracerProvider()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	defer otel.SetTracerProvider(before)
	traced := start(t, func(c *Config) { c.Tracing = true })
	if _, err := traced.catalog.GetCatalog(t.Context(), &chartergatev1.GetCatalogRequest{}); err != nil {
		t.Fatal(err)
	}
	select {
	case name := <-spans:
		if name != "chartergate.v1.CatalogService/GetCatalog" {
			t.Errorf("the span is %s", name)
		}
	case <-t.Context().Done():
		t.Error("there is no span")
	}
}
