package replay

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// gateServer serves the scripted gate over gRPC.
type gateServer struct {
	pb.UnimplementedPreflightServiceServer
	*gate
}

func (s gateServer) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.ReserveResponse, error) {
	return s.gate.Reserve(ctx, r)
}

func (s gateServer) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.SettleResponse, error) {
	return s.gate.Settle(ctx, r)
}

func serveGate(t *testing.T, g *gate, addr string) (*grpc.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Error(err)
		return grpc.NewServer(), addr
	}
	s := grpc.NewServer()
	pb.RegisterPreflightServiceServer(s, gateServer{gate: g})
	go func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("Serve: %v", err)
		}
	}()
	return s, l.Addr().String()
}

// The server goes away with calls in flight, again and again: nothing is lost and nothing is sent with another body.
func TestRunSurvivesRestartsOfTheServer(t *testing.T) {
	g := newGate()
	server, addr := serveGate(t, g, "127.0.0.1:0")
	client, err := chartergate.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	restart, done := make(chan struct{}, 100), make(chan struct{})
	restarts := 0
	go func() {
		defer close(done)
		for range restart {
			server.Stop()
			server, _ = serveGate(t, g, addr)
			restarts++
		}
		server.Stop()
	}()
	r, err := Run(t.Context(), Options{Feature: "f", RunID: "run", Concurrency: 16}, client.Preflight, numbered(3000), func(a *Answer) {
		if a.Number%500 == 250 {
			restart <- struct{}{}
		}
	})
	close(restart)
	<-done
	if err != nil || r.Errors != 0 || r.Allowed != 3000 || restarts != 6 {
		t.Errorf("%v after %d restarts, %d allowed, %d errors: %s", err, restarts, r.Allowed, r.Errors, r.FirstError)
	}
	var want int64
	for _, cost := range g.settled {
		want += cost
	}
	if len(g.settled) != 3000 || r.SettledNanos != want || len(g.changed) != 0 {
		t.Errorf("the gate settled %d calls for %d, the clients saw %d; changed bodies: %v", len(g.settled), want, r.SettledNanos, g.changed)
	}
	t.Logf("%d restarts, %d retries", restarts, r.Retries)
}
