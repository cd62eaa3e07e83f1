package billing_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/chartergate/chartergate/billing"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

func rowsOfBench() int {
	if n, err := strconv.Atoi(os.Getenv("CHARTERGATE_BILL_ROWS")); err == nil {
		return n
	}
	return 1_000_000
}

// BenchmarkImport imports a FOCUS bill of a million rows, or CHARTERGATE_BILL_ROWS: the aim is 50,000 rows a second on two
// cores, with memory that does not grow with the file.
func BenchmarkImport(b *testing.B) {
	path := focusFile(b, rowsOfBench())
	for name, url := range map[string]func(b *testing.B) string{
		"sqlite":   func(b *testing.B) string { return "sqlite:" + filepath.Join(b.TempDir(), "usage.db") },
		"postgres": func(b *testing.B) string { return storetest.StartPostgres(b).NewDatabase(b) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s, err := sql.Open(b.Context(), url(b), sql.Options{})
				if err != nil {
					b.Fatal(err)
				}
				most, stop := heapPeak()
				b.StartTimer()
				began, cpu := time.Now(), cpuTime(b)
				m := &billing.Importer{Bills: s, Now: time.Now}
				reports, err := m.Import(b.Context(), []string{path})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				stop()
				b.ReportMetric(float64(reports[0].Imported)/time.Since(began).Seconds(), "rows/s")
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(reports[0].Imported), "cpu-µs/row")
				b.ReportMetric(float64(*most)/(1<<20), "MiB-heap")
				began = time.Now()
				if _, err := s.SumBills(b.Context(), store.BillQuery{By: []string{"service", "tag:feature", "day"}}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(began).Seconds(), "s-totals")
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// cpuTime is what this process has used, which does not depend on what else the machine does. PostgreSQL is another process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// heapPeak samples the heap in use.
func heapPeak() (most *uint64, stop func()) {
	most = new(uint64)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			*most = max(*most, m.HeapInuse)
			select {
			case <-tick.C:
			case <-quit:
				tick.Stop()
				return
			}
		}
	}()
	return most, func() { close(quit); <-done }
}
