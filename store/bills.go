package store

import (
	"context"
	"time"

	"github.com/chartergate/chartergate/core/bill"
)

// Bills keeps the lines of imported bills. Implementation: sql.
type Bills interface {
	// BeginBill begins the import of a file, or gives the one that was begun before, by the hash of its content: it goes on
	// behind Position, or is Done.
	BeginBill(ctx context.Context, f BillFile) (BillImport, error)
	// AppendBill keeps lines, which are of the file's rows behind position and up to another, all or nothing. They count
	// in no sum until FinishBills. Error: ErrConflict where another import of the file has gone on meanwhile.
	AppendBill(ctx context.Context, id, position, to int64, lines []bill.Line) error
	// FinishBills makes the lines of some files, which are one delivery, count, in one transaction. Each of their lines
	// takes the place of one of the same key in other files; replace also takes away what those have of the same
	// accounts and periods besides. report is kept with each file.
	FinishBills(ctx context.Context, ids []int64, replace bool, at time.Time, report func(id int64, c BillChanges) []byte) error
	// DropBill forgets a file and its lines, finished or not. What they took the place of counts again.
	DropBill(ctx context.Context, id int64) error
	// ListBills lists the files, newest first, at most 1000.
	ListBills(ctx context.Context) ([]BillImport, error)
	// SumBills answers a query. Rows are ordered by keys, then currency. Errors: *usage.QueryError, ErrTooLarge for more
	// than 200,000 rows.
	SumBills(ctx context.Context, q BillQuery) ([]BillRow, error)
}

// BillFile is a file to import.
type BillFile struct {
	Hash   string // SHA-256 of the content, in hexadecimal
	Name   string
	Format string
}

// BillImport is a file that was imported, or is being.
type BillImport struct {
	ID int64
	BillFile
	Done     bool
	Position int64     // rows of the file that were read
	Finished time.Time // zero until Done
	Report   []byte    // JSON; empty until Done
}

// BillChanges are what a delivery did to lines of other files.
type BillChanges struct {
	Restated int64 // lines that it has again
	Removed  int64 // others of the same accounts and periods that it took away
	Kept     int64 // others of those that still count
}

// Dimensions of BillQuery. A tag is `tag:` and its name.
const (
	BillProvider      = "provider"
	BillAccount       = "account"
	BillSubAccount    = "sub_account"
	BillService       = "service"
	BillSKU           = "sku"
	BillMeter         = "meter"
	BillRegion        = "region"
	BillResource      = "resource"
	BillResourceGroup = "resource_group"
	BillCategory      = "category"
	BillUnit          = "unit"
	BillFeature       = "feature"
	BillModel         = "model"
	BillTokenClass    = "token_class"
	BillServiceTier   = "service_tier"
	BillDay           = "day"    // 2026-09-21, UTC
	BillPeriod        = "period" // 2026-09
	BillFileName      = "file"
	BillTag           = "tag:"
)

// BillDimensions are those that have no argument.
var BillDimensions = []string{BillProvider, BillAccount, BillSubAccount, BillService, BillSKU, BillMeter, BillRegion, BillResource, BillResourceGroup,
	BillCategory, BillUnit, BillFeature, BillModel, BillTokenClass, BillServiceTier, BillDay, BillPeriod, BillFileName}

// BillQuery asks for sums of lines.
type BillQuery struct {
	From, To time.Time           // days of charges; To is not included; zero: all
	By       []string            // dimensions of the answer, in order
	Where    map[string][]string // by dimension: one of these keys
}

// BillRow is a sum. The sums are exact to 18 decimals; Lines are those of the lines' amounts, each rounded to a nano.
type BillRow struct {
	Keys                    []string // as BillQuery.By; empty where a line has none
	Currency                string
	Rows                    int64
	Tokens                  int64
	Quantity                bill.Sum // of one unit only where it is by unit
	Billed, Effective, List bill.Sum
	BilledLines             bill.Sum
}
