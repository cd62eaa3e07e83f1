package report

import "testing"

func TestSayGroupsCounts(t *testing.T) {
	got := say("%d of %d, %d less in %s", int64(1_234_567), int64(999), int64(-1000), "all")
	if want := "1,234,567 of 999, -1,000 less in all"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
