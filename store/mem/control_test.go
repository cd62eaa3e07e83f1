package mem_test

import (
	"testing"
	"time"

	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/mem"
	"github.com/chartergate/chartergate/store/storetest"
)

func TestControl(t *testing.T) {
	storetest.RunControl(t, func(*testing.T) (store.Control, store.Control) {
		c := mem.NewControl(time.Now)
		return c, c
	})
}
