// Package bill says what stands in the bills of providers, and how it differs from what the ledger counted.
package bill

import (
	"encoding/binary"
	"time"
)

// Line is one line of a bill. Its strings are parts of the record that it was read from: clone what is kept.
type Line struct {
	Row int64 // records before it in the file, and one; the header is not counted

	Attributes
	Account     string    // the billing account
	PeriodStart time.Time // of the bill; the month of Start where the file does not say
	PeriodEnd   time.Time // zero where the file does not say
	Start, End  time.Time // of the charge; End may be zero

	Quantity  Decimal
	Tokens    int64 // the quantity in tokens; 0 unless TokenClass is set and the unit is known
	List      *Decimal
	Billed    Decimal
	Effective *Decimal
	Credits   Decimal // of Billed, where the file gives credits with the line that they reduce

	// Key is what the line is recognised by in a later export: a hash of the columns that identify it, without amounts.
	// Tags are among them only where there is no resource.
	Key [16]byte
}

// Attributes are what lines are grouped by.
type Attributes struct {
	Provider, SubAccount, Service, SKU, Meter, Region string
	Resource, ResourceGroup, Category, Unit, Currency string
	Tags                                              string // a JSON object of strings, keys sorted; empty for none
	Feature                                           string // from a tag; empty: not allocated
	Model                                             string // empty: not a model's use
	TokenClass                                        string // one of the classes below; empty: not known
	ServiceTier                                       string // batch, flex, priority, provisioned …; empty: standard
}

// Token classes of Attributes.TokenClass.
const (
	ClassInput      = "input"
	ClassCacheRead  = "cache_read"
	ClassCacheWrite = "cache_write"
	ClassOutput     = "output"
	ClassEmbedding  = "embedding"
	ClassCompute    = "compute" // hours of machines that serve models
)

// KeyParts is the key as two numbers.
func (l *Line) KeyParts() (int64, int64) {
	return int64(binary.BigEndian.Uint64(l.Key[:8])), int64(binary.BigEndian.Uint64(l.Key[8:]))
}
